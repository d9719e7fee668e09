package main

const helpExtension = `Usage: brevet-extension, started by AWS Lambda
       brevet extension [NAME]

An external extension of AWS Lambda, for functions in any language: it gets
credentials while the function starts, by the identity that AWS gives the
function, keeps them fresh, and revokes them when Lambda ends the sandbox.

Lambda starts each file in /opt/extensions without arguments, and knows it by
its name: copy brevet to brevet-extension there, by a layer or in the image.
What starts it from a file of another name gives that as NAME.

The function asks http://127.0.0.1:2774, and shows the token that is in the file
/tmp/brevet/token:  Authorization: Bearer TOKEN

  GET /credentials/NAME        {"name", "kind", "lease_id", "expires_at",
                               "values": {...}}
  GET /credentials/NAME/VALUE  one value, as it is
  GET /aws/NAME                what AWS SDKs read from a container's endpoint
  GET /ready                   {"ready": true} when all are in force

Until the credentials have come an answer waits for them. Errors are JSON:
{"error", "error_description", "hint"}; 503 has a Retry-After.

The function's environment configures it:
  BREVET_BROKER    the broker's url, exactly as in its configuration
  BREVET_CREDENTIALS
                   NAME[,NAME]: what to get, all in one exchange
  BREVET_AUDIENCE  what STS is asked for a token for (default: BREVET_BROKER)
  BREVET_TTL       ask for less time than granted, as 15m
  BREVET_CA_FILE   PEM certificates to trust besides the system's, for the
                   broker
  BREVET_START_WITHOUT
                   true: let the function start although STS or the broker
                   cannot be reached; what is refused still fails (default:
                   false)
  BREVET_MAX_STALE after how long the broker is asked for what was revoked, as
                   1m (the default), or never
  BREVET_FILES     true: write each value to a file as well, of mode 0600:
                   /tmp/brevet/credentials/NAME/VALUE (default: false)
  BREVET_PORT      another port than 2774
  BREVET_TOKEN_FILE
                   a file with a token for the broker, instead of STS: to try it
                   under AWS's emulator. On Lambda leave it unset

The function's role must be allowed sts:GetWebIdentityToken, and the account
enable it: aws iam enable-outbound-web-identity-federation.
AWS_ENDPOINT_URL_STS names another endpoint of STS. /tmp is where TMPDIR says.
`
