package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
)

const (
	// maxRequest in bytes bounds what a tool sends: a name, or the headers of
	// an HTTP request.
	maxRequest = 16 << 10

	// maxAnswer in bytes bounds what an agent sends: one lease. The broker's
	// answers have no more.
	maxAnswer = 1 << 20

	// requestTime is how long a tool may take to send its request, and to
	// read the answer: both are on the same machine.
	requestTime = 5 * time.Second

	// maxSilent bounds the connections that have not sent their request.
	maxSilent = 64
)

// A request is one line of JSON, one for each connection.
type request struct {
	Op         string `json:"op"` // opLease or opStop
	Credential string `json:"credential,omitempty"`
}

const (
	opLease = "lease"
	opStop  = "stop"
)

// A reply is one line of JSON.
type reply struct {
	Lease   json.RawMessage `json:"lease,omitempty"` // with secrets in clear
	Told    []string        `json:"told,omitempty"`  // to opStop: the latest troubles
	Failure *failure        `json:"failure,omitempty"`
}

type failure struct {
	Kind runner.Kind `json:"kind"`
	Text string      `json:"text"`
	Hint string      `json:"hint,omitempty"`
}

// accept serves each connection of l until it is closed.
func (a *Agent) accept(ctx context.Context, l net.Listener, serve func(context.Context, net.Conn, func())) {
	var serving sync.WaitGroup
	defer serving.Wait()
	var silent gate
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			silent.closeAll()
			return
		}
		if err != nil { // no file descriptors, say
			a.tell(fmt.Errorf("accepting a connection: %w", err))
			select {
			case <-time.After(time.Second):
			case <-a.stop:
			}
			continue
		}
		silent.enter(conn)
		serving.Go(func() {
			defer conn.Close()
			spoken := sync.OnceFunc(func() { silent.leave(conn) })
			defer spoken()
			serve(ctx, conn, spoken)
		})
	}
}

// A gate holds the connections that have not sent their request. When there are
// too many the oldest is closed: who has something to say has said it by then.
type gate struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (g *gate) enter(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns = append(g.conns, conn)
	if len(g.conns) > maxSilent {
		g.conns[0].Close()
		g.conns = slices.Delete(g.conns, 0, 1)
	}
}

func (g *gate) closeAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range g.conns {
		conn.Close()
	}
}

func (g *gate) leave(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.conns, conn); i >= 0 {
		g.conns = slices.Delete(g.conns, i, i+1)
	}
}

// answerTool serves one connection of the socket. Another user's gets nothing.
// spoken is called when the request has come.
func (a *Agent) answerTool(ctx context.Context, conn net.Conn, spoken func()) {
	if err := checkPeer(conn); err != nil {
		if !errors.Is(err, net.ErrClosed) { // by the gate
			a.tell(err)
		}
		return
	}
	conn.SetReadDeadline(time.Now().Add(requestTime))
	line, err := bufio.NewReader(io.LimitReader(conn, maxRequest)).ReadBytes('\n')
	if err != nil {
		return // who does not ask gets no answer
	}
	spoken()
	out, err := json.Marshal(a.reply(ctx, line))
	if err != nil {
		a.tell(fmt.Errorf("encoding an answer: %w", err))
		return
	}
	conn.SetWriteDeadline(time.Now().Add(requestTime))
	conn.Write(append(out, '\n')) // who has gone needs no answer
}

func (a *Agent) reply(ctx context.Context, line []byte) reply {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return reply{Failure: &failure{Kind: runner.Protocol, Text: "the agent was asked in another form than its own"}}
	}
	switch r.Op {
	case opLease:
		lease, err := a.lease(ctx, r.Credential)
		if err != nil {
			return reply{Failure: failureOf(err)}
		}
		text, err := lease.Encode()
		if err != nil {
			return reply{Failure: failureOf(errors.New("encoding the lease"))}
		}
		return reply{Lease: text}
	case opStop:
		return a.replyStop()
	}
	return reply{Failure: &failure{Kind: runner.Protocol, Text: "the agent was asked for what it does not do; is it of another version?"}}
}

// replyStop ends the agent, and answers when it has given back all it had.
func (a *Agent) replyStop() reply {
	a.stopped()
	<-a.ended
	a.mu.Lock()
	defer a.mu.Unlock()
	return reply{Told: a.told, Failure: failureOf(a.problem)}
}

// failureOf returns err for the other side of the socket; nil for nil.
func failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	out := &failure{Kind: runner.Unavailable, Text: err.Error()}
	if f, ok := errors.AsType[*runner.Failure](err); ok {
		out.Kind, out.Hint = f.Kind, f.Hint
	}
	return out
}

func (f *failure) err() error {
	if f == nil {
		return nil
	}
	hint := make([]string, 0, 2)
	for line := range strings.Lines(f.Hint) {
		hint = append(hint, runner.Printable(strings.TrimSpace(line)))
	}
	return failf(f.Kind, strings.Join(hint, "\n"), "%w", errors.New(runner.Printable(f.Text)))
}

// Ask asks the agent at socket for a lease. Its errors are Failures.
func Ask(ctx context.Context, socket, credential string) (*api.Lease, error) {
	r, err := ask(ctx, socket, request{Op: opLease, Credential: credential})
	if err != nil {
		return nil, err
	}
	if err := r.Failure.err(); err != nil {
		return nil, err
	}
	lease, err := api.DecodeLease(r.Lease)
	if err != nil || lease.Credential != credential {
		return nil, failf(runner.Protocol, "", "the agent's answer is not the lease asked for")
	}
	return lease, nil
}

// Stop ends the agent at socket and waits until it has given back its leases.
// told is what went wrong in its time; err is about the end.
func Stop(ctx context.Context, socket string) (told []string, err error) {
	r, err := ask(ctx, socket, request{Op: opStop})
	if err != nil {
		return nil, err
	}
	for i, text := range r.Told {
		r.Told[i] = runner.Printable(text)
	}
	return r.Told, r.Failure.err()
}

// ErrNoAgent says that nobody listens at the agent's socket.
var ErrNoAgent = errors.New("no agent is there; it has ended, or was never started")

func ask(ctx context.Context, socket string, r request) (*reply, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if isGone(err) {
		return nil, failf(runner.Unavailable, "start one with brevet agent start, or unset "+Variable, "asking the agent at %s: %w", socket, ErrNoAgent)
	}
	if err != nil {
		return nil, failf(runner.Unavailable, "", "asking the agent: %w", err)
	}
	defer conn.Close()
	if err := checkPeer(conn); err != nil {
		return nil, failf(runner.Misconfigured, "", "asking the agent: %w", err)
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return nil, failf(runner.Unavailable, "", "asking the agent: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxAnswer)).ReadBytes('\n')
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, failf(runner.Unavailable, "", "the agent did not answer in time")
	case err != nil:
		return nil, failf(runner.Unavailable, "", "the agent ended, or gave up, before it had answered: %w", err)
	}
	var out reply
	if err := json.Unmarshal(line, &out); err != nil {
		return nil, failf(runner.Protocol, "is it of another version of brevet?", "the agent's answer is none")
	}
	return &out, nil
}
