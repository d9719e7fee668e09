#!/bin/sh
# A job with leased credentials on any platform that gives it an OIDC token for
# the broker, here in the variable PLATFORM_ID_TOKEN. BREVET_BROKER is the URL of
# the broker, as its configuration has it; brevet is on the PATH.
set -eu
umask 077
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
printf %s "${PLATFORM_ID_TOKEN:?}" >"$folder/token" # by the shell itself: no process shows it
unset PLATFORM_ID_TOKEN

# The broker binds the one token to a key, which brevet keeps in the folder.
export BREVET_TOKEN_FILE="$folder/token" BREVET_STATE_DIR="$folder/state"

# A shell does not hear signals while it waits for a command in the foreground,
# and gives one in the background no stdin.
exec 3<&0
brevet exec --credential registry,deploy -- ./deploy.sh <&3 3<&- &
trap 'kill "$!"' HUP INT TERM
while true; do
  status=0
  wait "$!" || status=$?
  kill -0 "$!" 2>/dev/null || exit "$status"
done
