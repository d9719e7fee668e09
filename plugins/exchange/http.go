package exchange

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

const (
	// maxAnswer bounds an answer in bytes: 32 credentials of 32 KiB fit.
	maxAnswer = 1 << 20

	// maxHeader bounds the headers of an answer in bytes.
	maxHeader = 64 << 10

	// dialTimeout and answerTimeout end one try, so that a host that swallows
	// packets leaves time for another. A broker that mints many credentials
	// may need some seconds before it answers.
	dialTimeout   = 5 * time.Second
	answerTimeout = 15 * time.Second

	// idleTime ends connections that nobody uses, those that were given up, too: as
	// net/http's own.
	idleTime = 90 * time.Second

	// firstBackoff doubles with each try up to maxBackoff, less up to a half
	// at random, so that those who failed together do not come back together.
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = 5 * time.Second

	// handshakes is how many TLS sessions are kept to be resumed: one host's.
	handshakes = 4
)

// NewHTTPClient returns a client for the broker: TLS 1.2 or newer, sessions
// resumed, no redirects (they would carry a token to another host), proxies as
// the environment says. caFile names PEM certificates to trust besides the
// system's; "" means none.
func NewHTTPClient(caFile string) (*http.Client, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment, // never for loopback
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(handshakes)},
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: answerTimeout,
		IdleConnTimeout:       idleTime,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // maxAnswer then bounds what is read, too

		MaxResponseHeaderBytes: maxHeader,
	}
	d, err := newDialer(caFile, t.Clone().TLSClientConfig) // a clone's names the protocols that this program speaks
	if err != nil {
		return nil, err
	}
	if os.Getenv("HTTPS_PROXY")+os.Getenv("https_proxy") == "" {
		t.DialTLSContext = d.dial
		return &http.Client{CheckRedirect: stay, Transport: &transport{dialer: d, now: t}}, nil
	}
	all, err := d.all() // behind a proxy net/http shakes hands, and with one configuration
	if err != nil {
		return nil, Failf(Misconfigured, "", "%w", err)
	}
	t.TLSClientConfig = all.Clone()
	return &http.Client{CheckRedirect: stay, Transport: &transport{now: t}}, nil
}

func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// CheckURL refuses a URL that would carry a token in clear beyond this machine,
// or that has more than scheme, host and path.
func CheckURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil, u.Host == "", u.Opaque != "":
		return nil, errors.New("not an absolute URL")
	case u.User != nil:
		return nil, errors.New("a user name in the URL")
	case u.Fragment != "":
		return nil, errors.New("a fragment in the URL")
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return u, nil
	}
	return nil, errors.New("not https; plain http is for this machine only")
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback() // RFC 6761, section 6.3
}

// A Reply is what is used of an HTTP response.
type Reply struct {
	Status     int
	Header     http.Header
	Body       []byte
	RetryAfter time.Duration
	Sent       time.Time       // when the request was, with the monotonic clock
	Seal       api.SealContext // of a [Call]: what a sealed answer is bound to
}

// Date returns when the other side answered by its own clock, to the second; zero
// if it does not say: RFC 9110, section 6.6.1.
func (r *Reply) Date() time.Time {
	at, err := http.ParseTime(r.Header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return at
}

var (
	errTooLarge = fmt.Errorf("an answer over %d KiB", maxAnswer>>10)
	errBuild    = errors.New("preparing the request")
)

// ErrUnanswered says that a request was on its way when its time was up, or its
// connection broke: whether it was granted is not known.
var ErrUnanswered = errors.New("no answer came; leases that were granted all the same end by their TTL")

// Send makes the request that build returns until it is answered, other than by
// "try later", or ctx ends. The error is of the last try that was not cut short.
func Send(ctx context.Context, client *http.Client, build func() (*http.Request, error)) (*Reply, error) {
	return send(ctx, client, 0, func(*Reply, error) {}, build)
}

// send is Send, with patience. Each try is built anew, because a DPoP proof is
// good for one request. failed hears of each that another may follow.
//
// The answer to a request that is on its way when ctx ends is waited for,
// patience longer: it may tell what must be given back. With patience an error
// is an ErrUnanswered if the last try was sent.
func send(ctx context.Context, client *http.Client, patience time.Duration, failed func(*Reply, error), build func() (*http.Request, error)) (*Reply, error) {
	var last error
	for try := 0; ; try++ {
		r, err := sendOnce(ctx, client, patience, build)
		if err != nil && ctx.Err() != nil && last != nil && !errors.Is(err, ErrUnanswered) {
			return nil, last
		}
		if err == nil && !isBusy(r.Status) || err != nil && isPermanent(err) {
			return r, err
		}
		failed(r, err)
		wait := backoff(try)
		if err == nil {
			wait += r.RetryAfter // and not the longer of both: those who are told the same must not return together
		}
		if !Pause(ctx, wait) {
			return r, err
		}
		last = err
	}
}

func sendOnce(ctx context.Context, client *http.Client, patience time.Duration, build func() (*http.Request, error)) (*Reply, error) {
	req, err := build()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBuild, err)
	}
	// net/http repeats a request with an Idempotency-Key by itself where a
	// connection breaks; the proof in it would be used twice.
	req.GetBody = nil
	body := &noted{ReadCloser: req.Body}
	if patience > 0 {
		req.Body = body
	}
	longer, stop := outlast(ctx, patience, &body.read)
	defer stop()
	r, err := roundTrip(client, req.WithContext(longer))
	if err == nil {
		return r, nil
	}
	if ctx.Err() != nil {
		err = ctx.Err() // not that of longer, which tells nothing
	}
	if body.read.Load() && !errors.Is(err, errTooLarge) {
		err = fmt.Errorf("%w; %w", err, ErrUnanswered)
	}
	return nil, err
}

// A noted body tells whether anything of it was read: then its request has a
// connection. (Package httptrace tells that, too, and is 30 KB of a program.)
type noted struct {
	io.ReadCloser
	read atomic.Bool
}

func (n *noted) Read(p []byte) (int, error) {
	n.read.Store(true)
	return n.ReadCloser.Read(p)
}

// outlast returns the context of one request. It ends with ctx or, if the
// request is sent by then, patience later.
func outlast(ctx context.Context, patience time.Duration, sent *atomic.Bool) (longer context.Context, stop func()) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	release := context.AfterFunc(ctx, func() {
		if sent.Load() {
			timer := time.NewTimer(patience)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-longer.Done():
			}
		}
		cancel()
	})
	return longer, func() { release(); cancel() }
}

func roundTrip(client *http.Client, req *http.Request) (*Reply, error) {
	sent := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return nil, errTooLarge
	}
	return &Reply{
		Status: resp.StatusCode, Header: resp.Header, Body: body, Sent: sent,
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now()),
	}, nil
}

// withoutURL returns err without the URL of the request: a platform's may hold more
// than it should.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// isBusy reports whether the status means that the same request may well
// succeed later.
func isBusy(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// isPermanent reports whether another try would end in err again.
func isPermanent(err error) bool {
	_, badCertificate := errors.AsType[*tls.CertificateVerificationError](err)
	_, notTLS := errors.AsType[tls.RecordHeaderError](err)
	return badCertificate || notTLS || errors.Is(err, http.ErrSchemeMismatch) || errors.Is(err, errTooLarge) || errors.Is(err, errBuild) ||
		errors.Is(err, context.Canceled)
}

// maxRetryAfter bounds what an answer may ask for, far above what brokers do.
const maxRetryAfter = time.Hour

// retryAfter reads the header of that name: RFC 9110, section 10.2.3. What it
// cannot read is 0.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		return min(maxRetryAfter, time.Duration(seconds)*time.Second)
	}
	if at, err := http.ParseTime(header); err == nil {
		return min(maxRetryAfter, max(0, at.Sub(now)))
	}
	return 0
}

func backoff(try int) time.Duration {
	d := min(maxBackoff, firstBackoff<<min(try, 10))
	return d - rand.N(d/2)
}

// Pause waits for d. It reports false, at once, if ctx ends before that.
func Pause(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
