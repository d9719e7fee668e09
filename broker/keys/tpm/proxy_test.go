package tpm_test

import (
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/brevet-dev/brevet/broker/keys/tpm"
	"github.com/brevet-dev/brevet/test/servers"
)

// Commands as a TPM reads them.
var (
	// TPM2_CreatePrimary of an ECC storage key in the owner hierarchy.
	createPrimary = unhex("8002" + "0000004d" + "00000131" + "40000001" + "00000009" + "40000009" + "0000" + "00" + "0000" +
		"0004" + "0000" + "0000" + "001a" + "0023" + "000b" + "00030472" + "0000" + "0006" + "0080" + "0043" + "0010" + "0003" + "0010" + "0000" + "0000" +
		"0000" + "00000000" + "")

	// TPM2_StartAuthSession of a plain HMAC session.
	startSession = unhex("8001" + "0000003b" + "00000176" + "40000007" + "40000007" + "0020" + strings.Repeat("00", 32) + "0000" + "00" + "0010" + "000b")
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	if len(b) >= 6 {
		binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
	}
	return b
}

// send sends a command over a connection of its own, and fails unless the TPM
// did it.
func send(t *testing.T, s *servers.TPM, command []byte) []byte {
	t.Helper()
	_, path, _ := strings.Cut(s.Device(), ":")
	c, err := net.Dial("unix", path)
	must(t, err)
	defer c.Close()
	_, err = c.Write(command)
	must(t, err)
	answer, err := read(c)
	must(t, err)
	if code := binary.BigEndian.Uint32(answer[6:]); code != 0 {
		t.Fatalf("the TPM answers %#x to %x", code, command)
	}
	return answer
}

// read reads a command or an answer.
func read(r io.Reader) ([]byte, error) {
	head := make([]byte, 10)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	rest := make([]byte, max(int(binary.BigEndian.Uint32(head[2:])), 10)-10)
	_, err := io.ReadFull(r, rest)
	return append(head, rest...), err
}

// A proxy stands between a root and its TPM.
type proxy struct {
	to       string
	listener net.Listener

	mu       sync.Mutex
	commands [][]byte
	seen     []byte // all bytes in both directions

	// before is called with each command, and says what to do with it.
	before func(n int, command []byte) verdict
	change func(command, answer []byte) []byte
}

type verdict int

const (
	pass  verdict = iota
	cut           // the command does not reach the TPM, and the connection ends
	cutIt         // the command is done, and the connection ends
	busy          // the TPM is said to be busy: TPM_RC_RETRY
)

// between starts a proxy, and returns cfg with its address.
func between(t *testing.T, cfg tpm.Config) (*proxy, tpm.Config) {
	t.Helper()
	_, to, _ := strings.Cut(cfg.Device, ":")
	path := filepath.Join(filepath.Dir(to), "proxy.sock")
	l, err := net.Listen("unix", path)
	must(t, err)
	p := relaying(t, l, to)
	cfg.Device = "unix:" + path
	return p, cfg
}

func relaying(t *testing.T, l net.Listener, to string) *proxy {
	p := &proxy{
		to: to, listener: l,
		before: func(int, []byte) verdict { return pass },
		change: func(_, answer []byte) []byte { return answer },
	}
	done := make(chan struct{})
	go func() { defer close(done); p.serve() }()
	t.Cleanup(func() { l.Close(); <-done })
	return p
}

// serve serves one connection at a time, as swtpm does.
func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if server, err := net.Dial("unix", p.to); err == nil {
			p.relay(client, server)
			server.Close()
		}
		client.Close()
	}
}

func (p *proxy) relay(client, server io.ReadWriter) {
	for {
		command, err := read(client)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.commands = append(p.commands, command)
		p.seen = append(p.seen, command...)
		verdict := p.before(len(p.commands), command)
		p.mu.Unlock()
		if verdict == cut {
			return
		}
		if verdict == busy {
			client.Write(unhex("8001" + "0000000a" + "00000922"))
			continue
		}
		server.Write(command)
		answer, err := read(server)
		if err != nil || verdict == cutIt {
			return
		}
		p.mu.Lock()
		answer = p.change(command, answer)
		p.seen = append(p.seen, answer...)
		p.mu.Unlock()
		client.Write(answer)
	}
}

func (p *proxy) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *proxy) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.commands)
}

// Commands by their number: part 2, section 6.5.2.
const (
	ccNVDefineSpace = 0x12A
	ccCreatePrimary = 0x131
	ccNVIncrement   = 0x134
	ccNVRead        = 0x14E
	ccCreate        = 0x153
	ccECDHZGen      = 0x154
	ccSign          = 0x15D
)

// codeOf is what a command is for: TPM_CC.
func codeOf(command []byte) uint32 { return binary.BigEndian.Uint32(command[6:]) }
