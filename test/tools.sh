#!/usr/bin/env bash
# Installs what the tests need and is not there yet: servers and compilers from
# Debian's packages, Go tools from the Go module proxy, CI clients from npm. It
# writes to the system's packages and to .tools/ only, and running it again
# costs nothing. Names and versions are here and nowhere else.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/.tools
mkdir -p "$tools/bin"

say() { printf '%s\n' "tools: $*" >&2; }

# as_root runs a command as root, or says what to run instead.
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo "$@"
	else
		say "error: not root, and there is no sudo without a password"
		say "hint: run as root: apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
		exit 1
	fi
}

# debian COMMAND PACKAGE...: installs the packages unless the command is there.
missing=()
debian() {
	local command=$1; shift
	command -v "$command" >/dev/null || missing+=("$@")
}
debian redis-server redis-server # the leases' store
debian gcc gcc libc6-dev         # go test -race
debian rsync rsync               # gitlab-ci-local copies the project with it
debian npm nodejs npm            # CI clients, and Node itself
debian curl curl                 # examples in the docs
debian swtpm swtpm swtpm-tools   # a TPM in software
debian tpm2 tpm2-tools           # another reading of what a TPM says
debian shellcheck shellcheck     # scripts that run in others' jobs
debian openssl openssl           # another reading of certificates and signatures
debian softhsm2-util softhsm2    # an HSM in software
debian git git                   # checkouts of policies
debian ssh-keygen openssh-client # signatures of commits
debian zip zip                   # archives that brevet scan looks through
debian xz xz-utils               # and such that it cannot open
debian zstd zstd
debian bzip2 bzip2
debian xxd xxd                   # values as tools dump them
debian pgrep procps              # what a command left behind
debian unshare util-linux        # brevet as the first process
# psql alone may be there without the server, which Debian keeps out of the PATH
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
debian psql postgresql-client    # a target with users of its own, and its client
if [ ${#missing[@]} -gt 0 ]; then
	say "installing from Debian: ${missing[*]}"
	as_root apt-get update -qq
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# go_tool BINARY MODULE@VERSION: .tools/bin/BINARY, built once a version.
go_tool() {
	local stamp=$tools/bin/.$1-${2##*@}
	[ -e "$stamp" ] && return
	say "building $1 ${2##*@}"
	GOBIN=$tools/bin GOFLAGS= go install "$2"
	touch "$stamp"
}
go_tool staticcheck honnef.co/go/tools/cmd/staticcheck@v0.8.2
go_tool age filippo.io/age/cmd/age@v1.3.2 # decrypts what brevet encrypts
go_tool actionlint github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 # reads GitHub workflows
go_tool act github.com/nektos/act@v0.2.89 # runs GitHub workflows
CGO_ENABLED=0 go_tool aws-lambda-rie github.com/aws/aws-lambda-runtime-interface-emulator/cmd/aws-lambda-rie@v0.0.0-20261030222936-bef5c4ba774d # AWS's emulator of Lambda

# The action must run on the Node that GitHub's runners have (24), and still on 20.
npm_want="gitlab-ci-local@4.75.1 node24@npm:node@24 node20@npm:node@20"
if [ "$(cat "$tools/npm.stamp" 2>/dev/null)" != "$npm_want" ]; then
	say "installing from npm: $npm_want"
	# shellcheck disable=SC2086
	npm install --prefix "$tools" --no-save --no-audit --no-fund --loglevel=error $npm_want >/dev/null
	printf '%s' "$npm_want" >"$tools/npm.stamp"
fi
