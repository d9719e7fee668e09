package main

import "io"

// help prints the page for a topic.
func (p *program) help(args []string) (int, error) {
	page := helpMain
	if len(args) > 0 {
		pages := map[string]string{
			"exec": helpExec, "get": helpGet, "revoke": helpRevoke, "mask": helpMask, "exit-codes": helpExitCodes,
		}
		var ok bool
		if page, ok = pages[args[0]]; !ok {
			return exitUsage, usagef("no help on %q", args[0])
		}
	}
	_, err := io.WriteString(p.stdout, page)
	return statusOf(err), err
}

const helpMain = `brevet gets short-lived credentials for a CI job, and gives them back.

Usage:
  brevet exec --broker URL --credential NAME[,NAME] -- command args...
  brevet get NAME[,NAME] [--format json|env|dotenv]
  brevet revoke
  brevet mask --values FILE
  brevet help [exec|get|revoke|mask|exit-codes]
  brevet --version

The job's OIDC token is looked for in this order:
  BREVET_TOKEN_FILE  a file with the token, on any platform
  GitHub             permissions: {id-token: write}
  GitLab             id_tokens: {BREVET_ID_TOKEN: {aud: <the broker's URL>}}

Where a platform gives a job only one token (all but GitHub), the key that the
token is bound to is kept in BREVET_STATE_DIR, or in a folder of mode 0700
under TMPDIR, so that every brevet of the job uses the same.
`

// helpConnection are the flags that all commands but mask have.
const helpConnection = `  --broker URL     the broker's url, exactly as in its configuration: the
                   audience of the job's token; https, or http on this machine
                   (BREVET_BROKER)
  --ca-file FILE   PEM certificates to trust besides the system's
                   (BREVET_CA_FILE)
  --timeout D      for token and broker together, with retries (default 30s)
`

const helpExec = `Usage: brevet exec [flags] -- command args...

Runs command with credentials in its environment, under the names that the
broker gives. Sensitive values are masked in its stdout and stderr. Signals and
the exit status are passed through. When it has ended, however it did, the
leases are revoked; if that fails, a warning says so. The rest of the output is
passed on, until nothing comes for five seconds.

When the process that started brevet dies, brevet ends the command as if by
SIGTERM; with nohup it does not.

The command does not see ACTIONS_ID_TOKEN_REQUEST_URL and
ACTIONS_ID_TOKEN_REQUEST_TOKEN, BREVET_ID_TOKEN, BREVET_SESSION, nor any
variable that begins with BREVET_TOKEN: with them it could get credentials that
it was not given.

Flags, with the variables that set their defaults:
  --credential NAME[,NAME]
                   what to get (BREVET_CREDENTIALS)
  --ttl D          ask for less time than granted, as 15m (BREVET_TTL)
  --allow-short NAME[,NAME]
                   run although the value NAME, as credential.value, is too
                   short or too common to be masked, and leave it in clear
` + helpConnection

const helpGet = `Usage: brevet get [flags] NAME[,NAME]

Prints what an exchange gives for the credentials NAME (BREVET_CREDENTIALS), in
clear, and does not revoke it: the leases end by their TTL, or by brevet revoke.
If they cannot be printed, or a signal comes first, it does.

Flags, with the variables that set their defaults:
  --format F       json: {"leases": [{lease_id, credential, kind, expires_at,
                   renewable, revocable, values, env, sensitive}]} (default)
                   env: lines for a shell, export NAME='value'
                   dotenv: lines NAME=value; fails where readers of such files
                   differ
  --with-session   in json also session_token, token_type and expires_in
  --ttl D          ask for less time than granted, as 15m (BREVET_TTL)
` + helpConnection

const helpRevoke = `Usage: brevet revoke [flags]

Ends a session with all its leases. The session token is read from
--session-file, else from BREVET_SESSION, else from stdin.

Flags, with the variables that set their defaults:
  --session-file FILE
                   the session_token that brevet get --with-session printed
` + helpConnection

const helpMask = `Usage: brevet mask --values FILE [--allow-short]

Copies stdin to stdout and masks the values in FILE, a JSON list of strings in
UTF-8: as they are, line by line, in base64, percent-encoded and in JSON.

Flags:
  --values FILE    the values
  --allow-short    go on although a value is too short or too common to be
                   masked, and leave it in clear
`

const helpExitCodes = `Exit codes:
    0  done; of exec: the command's
   64  brevet was called the wrong way
   69  the platform or the broker cannot be reached, or cannot serve now
   70  an error in brevet itself
   74  output could not be written whole
   76  an answer was not what it should be
   77  the broker refused
   78  something is missing or wrong in the job's definition or environment
  126  exec: the command could not be run
  127  exec: the command was not found
128+n  exec: signal n killed the command, or came before it ran
other  exec: the command's
`
