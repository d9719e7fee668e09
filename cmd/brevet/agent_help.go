package main

const helpAgent = `Usage: brevet agent start --credential NAME[,NAME] --parent PID|--lifetime D
       brevet agent stop
       brevet agent --credential NAME[,NAME] -- command args...
       brevet agent serve --credential NAME[,NAME] --file NAME=PATH [--once]
       brevet agent ready --ready-file PATH

Keeps credentials for the tools of a job, as long as it runs: each is leased
when a tool first asks for it, renewed at two thirds of its time, and given back
at the end. Tools ask by the commands of "brevet help helpers"; AWS SDKs ask by
themselves with --aws.

  start  runs an agent in the background and prints the variables that tell
         tools of it:  eval "$(brevet agent start ...)"
  stop   ends it: what it has is revoked, but for what is tied to the run
  serve  runs one in the foreground; when it can be asked it prints the
         variables and an empty line. As a sidecar it keeps files; see below
  ready  succeeds if the ready file of such a sidecar says that all is there
  --     runs command with an agent that ends with it. What the agent has handed
         out is masked in the command's stdout and stderr.

The agent's socket is open to its own user only. It hands out what --credential
names, and nothing else.

Flags, with the variables that set their defaults:
  --credential NAME[,NAME]
                   what may be asked for (BREVET_CREDENTIALS)
  --aws NAME       the one of them that AWS SDKs get by themselves
  --parent PID     end when this process does, as $$, a shell's own
  --lifetime D     end after this time, as 2h
  --format FORMAT  env, for eval (the default); dotenv; or github, to append to
                   the file $GITHUB_ENV
  --dir DIR        the folder for the socket: of mode 0700, made if it is not
                   there (a new one under XDG_RUNTIME_DIR or TMPDIR)
  --socket PATH    of stop: which agent (BREVET_AGENT)
  --key-file FILE  keeps the key that a token is bound to, for the next start
                   under the same token; made if it is not there
                   (BREVET_KEY_FILE)
  --ttl D          ask for leases of less time than granted, as 15m (BREVET_TTL)
` + helpConnection + `
Of serve, beside other containers. All credentials are then leased at once:
  --file NAME=PATH     a file with the value that a credential sets as NAME
  --template FILE=PATH
                       a file made of a template: {{credential.value}} in it is
                       replaced, as with brevet exec --format
                       Both may be repeated. Files are replaced in one step when
                       a value is renewed, and wiped at the end
  --mode MODE          of these files and --aws-token-file, as 0640; at most
                       0644 (0600). Their group is that of a folder with setgid
  --allow-disk         also in folders that are not in memory
  --ready-file PATH    is there as long as all credentials are
  --once               write the files and end; leases live until their TTL
  --listen 127.0.0.1:PORT
                       where AWS SDKs of other containers ask, with --aws
  --aws-token-file PATH
                       what they must send (a file in --dir)
`

const helpHelpers = `Usage, by the tools that use credentials:

  brevet aws-credential-process NAME        credential_process of AWS SDKs
  brevet kube-credential NAME               users[].user.exec of a kubeconfig
  brevet gcp-credential NAME                credential_source.executable of
                                            Google's external accounts
  docker-credential-brevet get|list         credHelpers of docker
  git-credential-brevet get                 credential.helper of git

Each asks the agent that BREVET_AGENT names. Without one it makes an exchange
for each call, and the lease lives until its TTL; see brevet help agent.

The last two are brevet by another name: link them to it, on the PATH. Which
credential is for which host stands in
  BREVET_DOCKER    HOST[:PORT]=[USER@]NAME, several separated by commas; the
                   user is else brevet. Docker calls its hub index.docker.io
  BREVET_GIT       HOST[:PORT][/PATH]=[USER@]NAME; the user is else that of the
                   URL, or x-access-token. As <bearer> the token is sent without
                   a user, which git can since 2.46

  kind of credential   fits
  aws-role             aws-credential-process, --aws
  jwt                  all others, as token or password

Flags, with the variables that set their defaults:
  --ttl D          ask for a lease of less time than granted, as 15m
                   (BREVET_TTL)
` + helpConnection
