package main

import "io"

// help prints the page for a topic.
func (p *program) help(args []string) (int, error) {
	page := helpMain
	if len(args) > 0 {
		page = p.page(args[0])
	}
	if page == "" {
		return exitUsage, usagef("no help on %q", args[0])
	}
	_, err := io.WriteString(p.stdout, page)
	return statusOf(err), err
}

// page returns what help says on a topic, "" if nothing.
func (p *program) page(topic string) string {
	if p.helperCommand(topic) != nil {
		return helpHelpers
	}
	switch topic {
	case "exec":
		return helpExec
	case "get":
		return helpGet
	case "revoke":
		return helpRevoke
	case "mask":
		return helpMask
	case "scan":
		return helpScan
	case "encrypt":
		return helpEncrypt
	case "decrypt":
		return helpDecrypt
	case "verify-trust":
		return helpVerifyTrust
	case "claims":
		return helpClaims
	case "agent":
		return helpAgent
	case "helpers":
		return helpHelpers
	case extensionCommand:
		return helpExtension
	case "exit-codes":
		return helpExitCodes
	}
	return ""
}

const helpMain = `brevet gets short-lived credentials for a CI job, and gives them back.

Usage:
  brevet exec --broker URL --credential NAME[,NAME] -- command args...
  brevet get NAME[,NAME] [--format json|env|dotenv]
  brevet revoke [--run]
  brevet mask --values FILE
  brevet scan [--values FILE | --session-file FILE] PATH...
  brevet encrypt --key NAME [--context NAME=VALUE]... [-o FILE] [FILE]
  brevet decrypt --key NAME [--context NAME=VALUE]... [-o FILE] [FILE]
  brevet agent start|stop, brevet agent --credential NAME -- command args...
  brevet claims [NAME[,NAME]]
  brevet verify-trust --root FINGERPRINT FILE
  brevet extension
  brevet help [exec|get|revoke|mask|scan|encrypt|decrypt|agent|helpers|claims|
               verify-trust|extension|exit-codes]
  brevet --version

The job's OIDC token is looked for in this order:
  BREVET_TOKEN_FILE  a file with the token, on any platform
  GitHub             permissions: {id-token: write}
  GitLab             id_tokens: {BREVET_ID_TOKEN: {aud: <the broker's URL>}}
  Buildkite          where the job finds its buildkite-agent

Where a platform gives a job only one token (GitLab, a file), the key that the
token is bound to is kept in BREVET_STATE_DIR, or in a folder of mode 0700
under TMPDIR, so that every brevet of the job uses the same.
`

// helpConnection are the flags of the commands that speak with the broker.
const helpConnection = `  --broker URL     the broker's url, exactly as in its configuration: the
                   audience of the job's token; https, or http on this machine
                   (BREVET_BROKER)
  --ca-file FILE   PEM certificates to trust besides the system's
                   (BREVET_CA_FILE)
  --timeout D      for token and broker together, with retries (default 30s)
`

const helpExec = `Usage: brevet exec [flags] -- command args...

Runs command with credentials in its environment, under the names that the
broker gives, or in files. Sensitive values are masked in its stdout and stderr;
where stdout is a terminal the command gets one of its own. Signals, the exit
status and death by a signal are passed through. When it has ended, however it
did, what it left behind is ended, files are wiped, and the leases revoked; if
that fails, a warning says so. The rest of the output is passed on, until
nothing comes for five seconds.

While it runs leases are renewed, each at two thirds of its time. An environment
cannot be changed from outside: new values reach the command in files only, and
where a file holds them a credential that cannot be renewed any more is
exchanged for again.

Leases that a policy ties to the run (scope: run) are not revoked at the end; a
note names them. For leases that end in silence (dead_man) heartbeats are sent
as long as the command runs; that they fail is told, and does not end it.

When the process that started brevet dies, brevet ends the command as if by
SIGTERM; with nohup it does not.

The command does not see what would give it more than that: BREVET_SESSION,
BREVET_ID_TOKEN, what begins with BREVET_TOKEN, and the platform's tokens for
jobs, such as ACTIONS_ID_TOKEN_REQUEST_TOKEN and CI_JOB_TOKEN.

Values are never put into arguments, which every process of the machine can
read: {{credential.value}} there is an error.

Flags, with the variables that set their defaults:
  --credential NAME[,NAME]
                   what to get (BREVET_CREDENTIALS)
  --ttl D          ask for less time than granted, as 15m (BREVET_TTL)
  --file VARIABLE=PATH
                   write the value that the broker gives VARIABLE to PATH, of
                   mode 0600, and let VARIABLE hold the path. Without a / PATH
                   is in a folder of its own in memory
  --format VARIABLE=TEMPLATE
                   write the file TEMPLATE, in which {{credential.value}} is
                   replaced, and {{credential.value|json}}, |base64 or |url by
                   the value so encoded, to such a folder, and let VARIABLE hold
                   its path. What a file holds is not in the environment
  --pass NAME[,NAME]
                   let the command see variables that it would not
  --kill-after D   kill the command if it lives on for so long after a signal
                   that should end it (default: never)
  --no-renew       let the leases end by their TTL
  --on-renew-failure warn|fail|kill
                   when a credential is lost while the command runs: say so
                   (default), exit with a failure at its end, or end it then
  --allow-short NAME[,NAME]
                   run although the value NAME, as credential.value, is too
                   short or too common to be masked, and leave it in clear
  --context NAME=VALUE
                   one entry of the context of the data keys among them; may be
                   repeated
` + helpConnection

const helpGet = `Usage: brevet get [flags] NAME[,NAME]

Prints what an exchange gives for the credentials NAME (BREVET_CREDENTIALS), in
clear, and does not revoke it: the leases end by their TTL, or by brevet revoke.
If they cannot be printed, or a signal comes first, it does.

Flags, with the variables that set their defaults:
  --format F       json: {"leases": [{lease_id, credential, kind, expires_at,
                   renewable, revocable, values, env, sensitive}]} (default);
                   scope and heartbeat, where a policy says so
                   env: lines for a shell, export NAME='value'
                   dotenv: lines NAME=value; fails where readers of such files
                   differ
  --with-session   in json also session_token, token_type and expires_in
  --ttl D          ask for less time than granted, as 15m (BREVET_TTL)
  --context NAME=VALUE
                   one entry of the context of the data keys among them; may be
                   repeated
` + helpConnection

const helpRevoke = `Usage: brevet revoke [flags]
       brevet revoke --run --credential NAME [flags]

Ends a session with all its leases. The session token is read from
--session-file, else from BREVET_SESSION, else from stdin.

With --run it ends what policies tie to the run (scope: run), whichever job of
the run got it: for the last job of a workflow. To show which run that is it
gets the credential NAME, any that the job may have, and gives it back.

Flags, with the variables that set their defaults:
  --session-file FILE
                   the session_token that brevet get --with-session printed
  --job            of the session, leave what is tied to the run
  --run            end what is tied to the run, and no session
  --credential NAME[,NAME]
                   with --run: what to get (BREVET_CREDENTIALS)
` + helpConnection

const helpMask = `Usage: brevet mask --values FILE [--allow-short]

Copies stdin to stdout and masks the values in FILE, a JSON list of strings in
UTF-8, in the forms in which tools print them: plain, line by line, quoted,
escaped, in base64, in hex and in dumps. What is compressed, encrypted or cut
off is not masked.

Flags:
  --values FILE    the values
  --allow-short    go on although a value is too short or too common to be
                   masked, and leave it in clear
`

const helpEncrypt = `Usage: brevet encrypt --key NAME [flags] [FILE]

Encrypts FILE, or stdin, with a new data key of the credential NAME, as an age
file (age-encryption.org/v1). It holds what is needed to decrypt it but for the
broker's consent: brevet decrypt, or age with age-plugin-brevet, in a job that
a policy allows to unwrap that key. When that ends for good is told on stderr.

The session is given back as soon as the file has its key, unless the key is
one that is shredded with its lease: then it lives on until its TTL, or until
brevet revoke ends it and the file with it.

Flags, with the variables that set their defaults:
  --key NAME       the credential, of kind data-key
  --context NAME=VALUE
                   one entry of what the file is for, as release=1.2; may be
                   repeated. It is bound to the key, stands in the file in
                   clear, and must be given again, all of it, to decrypt
  -o FILE          write to FILE, of mode 0600, when all is done; without it,
                   or as -, to stdout
  --armor          write text, in PEM
  --recipient      write no file, but what stands for this key and context in
                   age -r
  --session-file FILE
                   write the session token there, of mode 0600, for brevet
                   revoke; fails unless the key is one that is shredded
  --ttl D          ask for a lease of less time than granted, as 15m
                   (BREVET_TTL)
` + helpConnection

const helpDecrypt = `Usage: brevet decrypt --key NAME [flags] [FILE]

Decrypts FILE, or stdin, which brevet encrypt wrote, or age for a recipient of
brevet's, with armor or without.

The file must be encrypted with a key of the credential NAME, and with exactly
the context that is given; without --context, with none. The file says itself
which they are, but whoever can replace it could put another there, encrypted
for something else: an older release, say. Take its word for it only if that
does not matter.

Each part of the file is checked before it is written. A file that was altered
or cut short ends in exit status 65: to stdout its beginning may have been
written by then, at -o FILE nothing appears.

Flags, with the variables that set their defaults:
  --key NAME       the credential, of kind data-key
  --any-key        whichever the file names
  --context NAME=VALUE
                   one entry of the context; may be repeated
  --any-context    whichever the file names; it is told on stderr
  -o FILE          write to FILE, of mode 0600, when all is done; without it,
                   or as -, to stdout
  --identity       write no file, but what stands for this key and context in
                   the file of age -i. It is no secret
` + helpConnection + `
Stock age decrypts, too, if brevet is on the PATH by the name age-plugin-brevet
and BREVET_BROKER is set: age -d -i IDENTITY FILE, or age -d -j brevet FILE,
which takes the file's word for key and context.
`

const helpClaims = `Usage: brevet claims [flags] [NAME[,NAME]]

Shows what the job's OIDC token says: each claim, who decides about it, and what
it is; which preset of brevetd fits, and how sure that is; the issuer's entry
for brevetd.yaml; and a policy that grants the credentials NAME to runs like
this one, with the ids filled in and tests. Nothing is sent to a broker.

The token itself and its signature are not shown, and the token is not
verified. The claims are: they may hold names and e-mail addresses, and whoever
reads the job's log reads them.

Flags, with the variables that set their defaults:
  --audience TEXT  ask the platform for a token for TEXT; default: the broker's
                   url, or brevet-claims if that is not known. Elsewhere than on
                   GitHub the job's definition has fixed it
  --token-file FILE
                   the token, instead of the one that the job has
  --issuer-url URL warn if the token's iss is not exactly URL, which is that of
                   the issuer in brevetd.yaml
  --json           print all of it as JSON: {preset, certainty (issuer, claims,
                   ambiguous or none), other_presets, token, claims: [{name,
                   value, kind, type, meaning, seen_by}], warnings, issuer_yaml,
                   policy_name, policy_yaml}
  NAME[,NAME]      what the policy is to grant (BREVET_CREDENTIALS)
` + helpConnection + `
Exit status 0 says that the token could be read, not that a broker would take
it: see the warnings.
`

const helpVerifyTrust = `Usage: brevet verify-trust --root FINGERPRINT [flags] FILE|-

Checks a trust bundle, that is what a broker answers at /v1/trust, and prints
why each of its roots and epochs can be trusted. It speaks with nobody: FILE is
the bundle, and - is stdin.

  curl -fsS https://BROKER/v1/trust | brevet verify-trust --root FINGERPRINT -

A root is trusted if its fingerprint is given, or if a trusted one endorsed it.
An attestation proves that the keys of a root cannot leave the TPM that the
attestation key is in. That this one is a TPM's is "self-asserted": no document
can prove it, and brokers have each other prove it before they endorse.

Flags:
  --root FINGERPRINT
                   a root that is known to be right, as sha256: and 64
                   hexadecimal digits; may be repeated, and one must be in FILE
  --require-tpm    refuse roots without an attestation
  --ek-ca FILE     PEM certificates of TPM makers' CAs and their intermediates:
                   the endorsement key of every attestation must lead to one
  --nonce HEX      what brevetd keys attest was given: an attestation must
                   answer it, and so was not made before
  --json           print the report as JSON
`

const helpScan = `Usage: brevet scan [flags] PATH...

Looks for values in files, in all files of folders, and in what is packed in
them (zip, tar, gzip, zlib, up to 8 deep), in every form in which brevet masks
them: before they are uploaded as artifacts. Exit status 3 says that there are
some, 4 that there are none where it could look, and that it could not look
everywhere. What it prints has nothing of a value.

Without --values and --session-file it looks for the values that brevet exec
has put into the environment, and into files by --file:
brevet exec -- sh -c 'make && brevet scan out'. In the environment they are
those that the command began with.

It does not follow links. One that leads out of all PATHs is not looked
through: name what it leads to, too.

Flags:
  --values FILE    a JSON list of the values to look for, as of brevet mask
  --session-file FILE
                   what brevet get --with-session printed: the values of its
                   leases, and the session token
  --without NAME[,NAME]
                   do not look for the value NAME, as credential.value, that is
                   too short or too common to be found, or not in the
                   environment
  --timeout D      end after that time (default 10m)
  --json           print a report as JSON
`

const helpExitCodes = `Exit codes:
    0  done; of exec: the command's
    3  scan: there are values in the files
    4  scan: not everything could be looked through
   64  brevet was called the wrong way
   65  decrypt: the file was altered, is cut short, or is none of brevet's
   69  the platform or the broker cannot be reached, or cannot serve now
   70  an error in brevet itself
   74  output could not be written whole
   76  an answer, or a trust bundle, was not what it should be
   77  the broker refused
   78  something is missing or wrong in the job's definition or environment
  126  exec: the command could not be run
  127  exec: the command was not found
128+n  exec: signal n killed the command, or came before it ran
other  exec: the command's
`
