package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/brevet-dev/brevet/test/bench/testdata/cold/served"
)

// A variant is one function that is started, over and over. The first is without
// brevet.
type variant struct {
	name    string
	program string   // in the system's folder
	env     []string // what it finds; nothing else
}

// The names of the variants. They differ in where the CA of the broker's certificate
// is found, and the platform's token.
const (
	bare       = "without"
	withFile   = "CA file"      // of BREVET_CA_FILE; the token is in a file, too
	withSystem = "system's CAs" // as where a public CA certifies the broker
	withSlow   = "slow token"   // the platform takes slowToken for it; CA file
)

// slowToken is how long a platform may take that signs tokens far away.
const slowToken = 20 * time.Millisecond

// roundTrips are the distances to the broker that are measured.
var roundTrips = [...]time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond}

// warmRequests are sent to each function after its first.
const warmRequests = 50

// A cold is what is needed to start functions.
type cold struct {
	sys      *system
	broker   *brevetd
	line     *line
	platform *httptest.Server // gives a token to whoever asks, after slowToken
	tokens   string           // file with the platform's token
	variants []variant
	bytes    [2]int64 // size of the programs, without brevet and with it
}

// startCold builds the functions and starts a broker at the end of a line.
func (s *system) startCold(ctx context.Context) (_ *cold, err error) {
	c := &cold{sys: s, tokens: filepath.Join(s.dir, "token")}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	if err := c.build(ctx); err != nil {
		return nil, err
	}
	if err := c.serve(ctx); err != nil {
		return nil, err
	}
	c.platform = httptest.NewServer(http.HandlerFunc(c.token))
	bundle := filepath.Join(s.dir, "bundle.pem")
	if err := writeBundle(bundle, filepath.Join(s.dir, certFile)); err != nil {
		return nil, err
	}
	c.variants = variants(s.dir, c.broker.url, c.platform.Listener.Addr().String(), bundle)
	return c, nil
}

// build builds the functions.
func (c *cold) build(ctx context.Context) error {
	for i, program := range []string{"bare", "with"} {
		if err := c.sys.build(ctx, program, "test/bench/testdata/cold/"+program); err != nil {
			return err
		}
		info, err := os.Stat(filepath.Join(c.sys.dir, program))
		if err != nil {
			return fmt.Errorf("looking at the size of a function: %w", err)
		}
		c.bytes[i] = info.Size()
	}
	return nil
}

// serve starts a broker at the end of a line: its URL is where the line begins.
func (c *cold) serve(ctx context.Context) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	if c.line, err = newLine(addr); err != nil {
		return err
	}
	c.broker = &brevetd{dir: filepath.Join(c.sys.dir, "cold"), url: "https://" + c.line.addr, addr: addr, database: 1}
	return c.sys.serve(ctx, c.broker)
}

func variants(dir, broker, platform, bundle string) []variant {
	url, token := "BREVET_BROKER="+broker, "BREVET_TOKEN_FILE="+filepath.Join(dir, "token")
	ca := "BREVET_CA_FILE=" + filepath.Join(dir, certFile)
	return []variant{
		{bare, "bare", nil},
		{withFile, "with", []string{url, token, ca}},
		{withSystem, "with", []string{url, token, "SSL_CERT_FILE=" + bundle}},
		{withSlow, "with", []string{url, ca, "GCE_METADATA_HOST=" + platform}},
	}
}

// systemCertificates is where Debian and its kin have them; others' are found there,
// too, or the bundle is the benchmark's own certificate alone.
const systemCertificates = "/etc/ssl/certs/ca-certificates.crt"

// writeBundle writes the system's certificates, and own among them.
func writeBundle(path, own string) error {
	system, err := os.ReadFile(systemCertificates)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading the system's certificates: %w", err)
	}
	cert, err := os.ReadFile(own)
	if err != nil {
		return fmt.Errorf("reading a TLS certificate: %w", err)
	}
	if err := os.WriteFile(path, append(append(system, '\n'), cert...), 0o600); err != nil {
		return fmt.Errorf("writing certificates: %w", err)
	}
	return nil
}

func (c *cold) stop() error {
	if c.platform != nil {
		c.platform.Close()
	}
	if c.broker != nil && c.broker.process != nil {
		c.broker.process.stop()
	}
	if c.line == nil {
		return nil
	}
	return c.line.close()
}

// token answers as Google's metadata server does.
func (c *cold) token(w http.ResponseWriter, _ *http.Request) {
	due := time.Now().Add(slowToken)
	token, err := c.mint()
	sleepUntil(due)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Metadata-Flavor", "Google")
	io.WriteString(w, token) // a function that is gone has failed already
}

// mint makes a token that no function has shown.
func (c *cold) mint() (string, error) {
	return c.sys.functions.Mint(c.broker.url, map[string]any{"project": manyClients})
}

// A start is what one start of a function was like.
type start struct {
	variant string
	ready   time.Duration // from before exec to the answer to its first request
	cpu     time.Duration // that it has used by then
	warm    []time.Duration
	thawed  time.Duration // a request that has to exchange over a new connection; 0: there is nothing to
	cold    handshakes
	thaw    handshakes
}

// handshakes are those of TLS that were made meanwhile.
type handshakes struct{ full, resumed int64 }

func (l *line) handshakes() handshakes { return handshakes{l.full.Load(), l.resumed.Load()} }

func (h handshakes) minus(o handshakes) handshakes {
	return handshakes{h.full - o.full, h.resumed - o.resumed}
}

func (h handshakes) plus(o handshakes) handshakes {
	return handshakes{h.full + o.full, h.resumed + o.resumed}
}

// measureCold starts each variant so many times at each distance, in rounds of one
// each, in random order, so that what else the machine does weighs on all.
func (s *system) measureCold(ctx context.Context, starts int, r *report, progress io.Writer) (err error) {
	fmt.Fprintln(progress, "bench: building functions and starting a broker for them")
	c, err := s.startCold(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	r.Function = &functionResult{Bare: c.bytes[0], With: c.bytes[1]}
	for _, trip := range roundTrips {
		c.line.roundTrip.Store(int64(trip))
		var all []start
		for range starts {
			round, err := c.round(ctx)
			if err != nil {
				return fmt.Errorf("starting functions (%s to the broker and back): %w", trip, err)
			}
			all = append(all, round...)
		}
		r.Function.add(trip, all)
		fmt.Fprintf(progress, "bench: functions, %s to the broker and back: %.1f ms added\n", trip, r.Function.of(trip, withFile).Added50)
	}
	return nil
}

// round starts each variant once.
func (c *cold) round(ctx context.Context) ([]start, error) {
	out := make([]start, len(c.variants))
	running := make([]*started, len(c.variants))
	defer func() {
		for _, f := range running {
			f.stop()
		}
	}()
	for _, i := range rand.Perm(len(c.variants)) {
		token, err := c.mint()
		if err != nil {
			return nil, fmt.Errorf("making a token: %w", err)
		}
		if err := os.WriteFile(c.tokens, []byte(token), 0o600); err != nil {
			return nil, fmt.Errorf("writing a token: %w", err)
		}
		before := c.line.handshakes()
		running[i], err = c.start(ctx, c.variants[i], &out[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.variants[i].name, err)
		}
		out[i].cold = c.line.handshakes().minus(before)
	}
	if err := c.warm(ctx, running, out); err != nil {
		return nil, err
	}
	return out, c.thaw(ctx, running, out)
}

// warm sends requests to all in turns.
func (c *cold) warm(ctx context.Context, running []*started, out []start) error {
	for range warmRequests {
		for _, i := range rand.Perm(len(running)) {
			took, _, err := running[i].request(ctx, "/")
			if err != nil {
				return fmt.Errorf("%s, warm: %w", out[i].variant, err)
			}
			out[i].warm = append(out[i].warm, took)
		}
	}
	return nil
}

// thaw has those with brevet exchange again, over a new connection.
func (c *cold) thaw(ctx context.Context, running []*started, out []start) (err error) {
	for _, i := range rand.Perm(len(running)) {
		if out[i].variant == bare {
			continue
		}
		before := c.line.handshakes()
		if out[i].thawed, _, err = running[i].request(ctx, "/again"); err != nil {
			return fmt.Errorf("%s, thawed: %w", out[i].variant, err)
		}
		out[i].thaw = c.line.handshakes().minus(before)
	}
	return nil
}

// A started is a function that runs.
type started struct {
	cmd    *exec.Cmd
	client *http.Client
	url    string
}

// start starts a function as platforms do, with a request that waits for it: its
// socket is open before it runs. out gets what that was like.
func (c *cold) start(ctx context.Context, v variant, out *start) (*started, error) {
	socket, url, err := openSocket()
	if err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	f := &started{url: url, client: &http.Client{Transport: &http.Transport{}, Timeout: startTimeout}}
	f.cmd = exec.CommandContext(ctx, filepath.Join(c.sys.dir, v.program))
	f.cmd.Env, f.cmd.ExtraFiles, f.cmd.Stderr = append([]string{}, v.env...), []*os.File{socket}, &stderr
	out.variant = v.name
	begin := time.Now()
	err = f.cmd.Start()
	socket.Close() // the function has its own, and what that leaves is refused
	if err != nil {
		return nil, fmt.Errorf("starting a function: %w", err)
	}
	_, out.cpu, err = f.request(ctx, "/")
	out.ready = time.Since(begin)
	if err != nil {
		f.stop()
		return nil, fmt.Errorf("%w; the function wrote: %s", err, stderr.Bytes())
	}
	return f, nil
}

// openSocket returns a listening socket for another process.
func openSocket() (_ *os.File, url string, err error) {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, "", fmt.Errorf("listening: %w", err)
	}
	socket, err := listener.File()
	if err = errors.Join(err, listener.Close()); err != nil {
		return nil, "", fmt.Errorf("listening: %w", err)
	}
	return socket, "http://" + listener.Addr().String(), nil
}

// stop ends the function; nil is none.
func (f *started) stop() {
	if f == nil {
		return
	}
	f.cmd.Process.Kill() // unless it has ended
	f.cmd.Wait()         // its end is by that signal
	f.client.CloseIdleConnections()
}

// request returns how long a request took, and what processor time the function has
// used.
func (f *started) request(ctx context.Context, path string) (took, cpu time.Duration, err error) {
	begin := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+path, nil)
	if err != nil {
		return 0, 0, fmt.Errorf("making the request: %w", err)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	took = time.Since(begin)
	if err != nil {
		return 0, 0, fmt.Errorf("reading the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return 0, 0, fmt.Errorf("status %d: %.500s", resp.StatusCode, body)
	}
	ns, err := strconv.ParseInt(resp.Header.Get(served.CPU), 10, 64)
	return took, time.Duration(ns), err
}
