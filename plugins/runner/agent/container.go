package agent

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
)

// awsPath begins the paths of the endpoint; the name of a credential follows.
const awsPath = "/aws/"

// newBearer returns what only who reads the file of it can know: every user of
// the machine can connect to a port of loopback.
func newBearer() api.Secret {
	raw := make([]byte, 32)
	rand.Read(raw) // never fails: crypto/rand
	return api.NewSecret(base64.RawURLEncoding.EncodeToString(raw))
}

// checkLoopback refuses an address that other machines could reach, or that SDKs
// do not send their token to: a name is none. "" is any port of 127.0.0.1.
func checkLoopback(address string) error {
	addr, err := netip.ParseAddrPort(address)
	if address == "" || err == nil && addr.Addr().IsLoopback() && addr.Port() != 0 {
		return nil
	}
	return failf(runner.Misconfigured, "such as 127.0.0.1:9911, which all containers of a pod share", "the address for AWS SDKs must be a port of loopback")
}

// answerAWS serves one connection of the endpoint for containers, as the AWS SDK
// Reference Guide describes it under "Container credential provider". spoken is
// called when a request with the right token has come.
//
// It takes one request a connection. That is all an SDK needs, and leaves the
// server of net/http out of the program, which is much of its size.
func (a *Agent) answerAWS(ctx context.Context, conn net.Conn, spoken func()) {
	conn.SetReadDeadline(time.Now().Add(requestTime))
	req, err := http.ReadRequest(bufio.NewReader(io.LimitReader(conn, maxRequest)))
	if err != nil {
		return // who does not speak HTTP gets no answer
	}
	status, body := http.StatusUnauthorized, awsError("Unauthorized", "the token of "+awsTokenFile+" is missing, or another")
	if a.knows(req) {
		spoken()
		status, body = a.replyAWS(ctx, req)
	}
	conn.SetWriteDeadline(time.Now().Add(requestTime))
	fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n%s",
		status, http.StatusText(status), len(body), body) // who has gone needs no answer
}

// knows reports whether req has the token. It must be for this host, too: a
// browser can be led to send requests to loopback, under a name of the leader's.
func (a *Agent) knows(req *http.Request) bool {
	given := req.Header.Values("Authorization")
	return len(given) == 1 && subtle.ConstantTimeCompare([]byte(given[0]), []byte(a.bearer.Reveal())) == 1 &&
		req.Host == a.web.Addr().String()
}

// replyAWS answers who knows the token. That is of the one credential that SDKs get
// by themselves, and of no other that the agent hands out.
func (a *Agent) replyAWS(ctx context.Context, req *http.Request) (status int, body []byte) {
	if req.URL.Path != awsPath+a.o.AWS || req.Method != http.MethodGet {
		return http.StatusNotFound, awsError("NotFound", "there is GET "+awsPath+a.o.AWS)
	}
	lease, err := a.lease(ctx, a.o.AWS)
	if err == nil {
		body, err = AWSContainer(*lease)
	}
	switch {
	case err == nil:
		return http.StatusOK, body
	case runner.IsKind(err, runner.Denied):
		return http.StatusForbidden, awsError("AccessDenied", err.Error())
	case runner.IsKind(err, runner.Misconfigured):
		return http.StatusBadRequest, awsError("ValidationError", err.Error())
	}
	return http.StatusServiceUnavailable, awsError("ServiceUnavailable", err.Error())
}

// awsError is an error as SDKs show it.
func awsError(code, message string) []byte {
	body, err := json.Marshal(map[string]string{"code": code, "message": message})
	if err != nil {
		return nil // two strings can be encoded
	}
	return body
}
