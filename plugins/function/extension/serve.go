package extension

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
	"github.com/brevet-dev/brevet/plugins/function"
)

const (
	// maxRequest bounds the headers of a request in bytes.
	maxRequest = 16 << 10

	// requestTime is how long the function may take to send its request, and to read
	// the answer: it is in the same sandbox.
	requestTime = 5 * time.Second

	// startTime is how long a request waits for the extension to start: as long as
	// Lambda lets it.
	startTime = 10 * time.Second

	// getTime is how long it then waits for the broker: longer than a question after
	// revocations takes, without whose answer there is a credential, too. Functions
	// have three seconds for all they do, if nobody sets more.
	getTime = 2500 * time.Millisecond

	// retryTime is what an answer asks the function to wait for if the broker did not
	// say.
	retryTime = time.Second

	// maxConns bounds the requests at one time. Others wait.
	maxConns = 256
)

// serve answers each connection until the listener is closed.
func (e *extension) serve() {
	free := make(chan struct{}, maxConns)
	for {
		free <- struct{}{}
		conn, err := e.web.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no file descriptors, say
			e.Tell(fmt.Errorf("accepting a request: %w", err))
			<-free
			if !exchange.Pause(e.life, time.Second) {
				return
			}
			continue
		}
		e.running.Go(func() {
			defer func() { conn.Close(); <-free }()
			e.answer(conn)
		})
	}
}

// answer serves one connection. It takes one request each: that is all a function
// needs, and leaves the server of net/http out of the program, which is much of
// its size.
func (e *extension) answer(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(requestTime))
	conn.SetWriteDeadline(time.Now().Add(startTime + getTime + requestTime))
	defer context.AfterFunc(e.life, func() { conn.SetDeadline(time.Now()) })()
	req, err := http.ReadRequest(bufio.NewReader(io.LimitReader(conn, maxRequest)))
	if err != nil {
		return // who does not speak HTTP gets no answer
	}
	a := e.reply(e.life, req)
	fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n%sConnection: close\r\n\r\n%s",
		a.status, http.StatusText(a.status), a.media, len(a.body), a.more, a.body) // who has gone needs no answer
}

// An answer is what is sent for a request.
type answer struct {
	status int
	media  string
	more   string // other headers, each with its end of line
	body   []byte
}

const (
	mediaJSON = "application/json"
	mediaText = "text/plain; charset=utf-8"
)

// reply answers who knows the token. A browser, or a library, can be led to send
// requests to loopback, under a name of the leader's: those are refused first.
func (e *extension) reply(ctx context.Context, req *http.Request) answer {
	switch {
	case !e.isOwn(req.Host):
		return refuse(http.StatusMisdirectedRequest, "misdirected_request", "the request is for another host", "ask http://"+e.web.Addr().String())
	case !e.knows(req):
		a := refuse(http.StatusUnauthorized, "unauthorized", "the token is missing, or another", "send the header  Authorization: Bearer TOKEN  with what is in the file "+e.folder.tokenPath())
		a.more = "WWW-Authenticate: Bearer\r\n"
		return a
	case req.Method != http.MethodGet:
		a := refuse(http.StatusMethodNotAllowed, "method_not_allowed", "there is GET only", "")
		a.more = "Allow: GET\r\n"
		return a
	}
	return e.route(ctx, req.URL)
}

// isOwn reports whether host is where the extension listens.
func (e *extension) isOwn(host string) bool {
	port := strconv.Itoa(e.web.Addr().(*net.TCPAddr).Port)
	return host == "127.0.0.1:"+port || host == "localhost:"+port
}

// knows reports whether req has the token, as a bearer token (RFC 6750) or bare, as
// AWS SDKs send it.
func (e *extension) knows(req *http.Request) bool {
	given := req.Header.Values("Authorization")
	if len(given) != 1 {
		return false
	}
	token := strings.TrimPrefix(given[0], "Bearer ")
	return subtle.ConstantTimeCompare([]byte(token), []byte(e.bearer.Reveal())) == 1
}

// The paths. NAME is a credential's, VALUE that of one of its values.
const paths = "there are GET /credentials/NAME, /credentials/NAME/VALUE, /aws/NAME and /ready"

// route answers a request that may be answered.
func (e *extension) route(ctx context.Context, u *url.URL) answer {
	parts := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	switch {
	case u.RawQuery != "" || !strings.HasPrefix(u.Path, "/"):
	case len(parts) == 1 && parts[0] == "ready":
		return e.ready(ctx)
	case len(parts) == 2 && parts[0] == "credentials":
		return e.give(ctx, parts[1], whole)
	case len(parts) == 3 && parts[0] == "credentials":
		return e.give(ctx, parts[1], func(c *function.Credential) answer { return one(c, parts[2]) })
	case len(parts) == 2 && parts[0] == "aws":
		return e.give(ctx, parts[1], e.forAWS).forSDK()
	}
	return refuse(http.StatusNotFound, "not_found", "there is nothing at this path", paths)
}

// give answers with a credential, as form has it.
func (e *extension) give(ctx context.Context, name string, form func(*function.Credential) answer) answer {
	if !slices.Contains(e.Credentials, name) {
		return refuse(http.StatusNotFound, "not_found", "the extension does not have this credential", "name it in BREVET_CREDENTIALS")
	}
	c, err := e.get(ctx, name)
	if err != nil {
		return refused(err)
	}
	return form(c)
}

// get returns a credential in force. It waits for the start of the extension.
func (e *extension) get(ctx context.Context, name string) (*function.Credential, error) {
	timer := time.NewTimer(startTime)
	defer timer.Stop()
	select {
	case <-e.started:
	case <-timer.C:
		return nil, errors.New("the extension has not started yet; with SnapStart it does with the first invocation")
	case <-ctx.Done():
		return nil, function.ErrClosed
	}
	if e.failed != nil {
		return nil, e.failed
	}
	ctx, cancel := context.WithTimeout(ctx, getTime)
	defer cancel()
	return e.set.Get(ctx, name)
}

// ready tells whether all credentials are in force.
func (e *extension) ready(ctx context.Context) answer {
	for _, name := range e.Credentials {
		if _, err := e.get(ctx, name); err != nil {
			return refused(err)
		}
	}
	return encode(http.StatusOK, map[string]bool{"ready": true})
}

// whole is all of a credential.
func whole(c *function.Credential) answer {
	values := map[string]string{}
	for name, value := range valuesOf(c) {
		values[name] = value.Reveal()
	}
	return encode(http.StatusOK, struct {
		Name      string            `json:"name"`
		Kind      string            `json:"kind"`
		LeaseID   string            `json:"lease_id"`
		ExpiresAt time.Time         `json:"expires_at"`
		Values    map[string]string `json:"values"`
	}{c.Name, c.Kind, c.LeaseID, c.ExpiresAt.UTC(), values})
}

func valuesOf(c *function.Credential) map[string]api.Secret {
	values := map[string]api.Secret{}
	for _, name := range c.Names() {
		if v, err := c.Value(name); err == nil { // as it is, of a name that it has
			values[name] = v
		}
	}
	return values
}

// one is one value of a credential, as it is.
func one(c *function.Credential, name string) answer {
	v, err := c.Value(name)
	if err != nil {
		return refuse(http.StatusNotFound, "not_found", "the credential has no such value", "it has "+exchange.Printable(strings.Join(c.Names(), ", ")))
	}
	return answer{status: http.StatusOK, media: mediaText, body: []byte(v.Reveal())}
}

// forAWS is a credential as AWS SDKs read it from a container's endpoint.
func (e *extension) forAWS(c *function.Credential) answer {
	body, err := e.AWS(api.Lease{LeaseID: c.LeaseID, Credential: c.Name, Kind: c.Kind, ExpiresAt: c.ExpiresAt, Values: valuesOf(c)})
	if err != nil {
		return refuse(http.StatusBadRequest, "misconfigured", err.Error(), "ask for a credential of kind aws-role")
	}
	return answer{status: http.StatusOK, media: mediaJSON, body: body}
}

// An apology is the body of an answer that has no credential.
type apology struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
	Hint        string `json:"hint,omitempty"`

	Code    string `json:"code,omitempty"` // the same again, as AWS SDKs show it
	Message string `json:"message,omitempty"`
}

func refuse(status int, code, description, hint string) answer {
	return encode(status, apology{Error: code, Description: description, Hint: hint})
}

// forSDK says what went wrong in the words of AWS SDKs, too.
func (a answer) forSDK() answer {
	var p apology
	if a.status == http.StatusOK || json.Unmarshal(a.body, &p) != nil {
		return a
	}
	p.Code, p.Message = p.Error, p.Description
	out := encode(a.status, p)
	out.more = a.more
	return out
}

// refused is the answer to a request for what there is not.
func refused(err error) answer {
	status, code := http.StatusServiceUnavailable, "temporarily_unavailable"
	wait, hint := retryTime, ""
	if f, ok := errors.AsType[*exchange.Failure](err); ok {
		wait, hint = max(wait, f.RetryAfter), f.Hint
		switch f.Kind {
		case exchange.Denied:
			status, code = http.StatusForbidden, "access_denied"
		case exchange.Misconfigured:
			status, code = http.StatusInternalServerError, "misconfigured"
		case exchange.Protocol:
			status, code = http.StatusBadGateway, "bad_answer"
		}
	}
	a := refuse(status, code, plain(err).Error(), hint)
	if status == http.StatusServiceUnavailable {
		a.more = fmt.Sprintf("Retry-After: %d\r\n", int64((wait+time.Second-1)/time.Second))
	}
	return a
}

// encode is for what can be encoded.
func encode(status int, v any) answer {
	body, err := json.Marshal(v)
	if err != nil {
		return answer{status: http.StatusInternalServerError, media: mediaJSON, body: []byte(`{"error":"server_error"}`)}
	}
	return answer{status: status, media: mediaJSON, body: body}
}
