package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/issuers/lab"
)

// A system is a broker with all that it needs, and the floor beside it.
type system struct {
	dir    string // of all files; removed at the end
	kind   string // of the credential that exchanges ask for
	roots  *x509.CertPool
	client *redis.Client // for Redis' own numbers

	issuer    *lab.Lab // of jobs; in this process
	functions *lab.Lab // of functions, which may show a token again

	redis, broker, floor *process
	brokerURL, floorURL  string
	adminURL             string // of the broker
	brokerTLS, floorTLS  string // what connections to them agree on
	answerSize           int    // of the broker's answer, in bytes
}

// A brevetd is one broker, with all that is its own.
type brevetd struct {
	dir       string // within the system's
	url, addr string // what it is known as; where it listens
	adminURL  string
	database  int // of Redis

	process *process // nil: it does not run
}

func (b *brevetd) config() string { return filepath.Join(b.dir, "brevetd.yaml") }

// startSystem starts all that brokers need, and builds them. After an error
// nothing is left running.
func startSystem(ctx context.Context, kind string) (_ *system, err error) {
	s := &system{kind: kind}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "brevet-bench-"); err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	if s.roots, err = writeCertificate(s.dir); err != nil {
		return nil, err
	}
	if s.issuer, err = lab.Start(lab.Options{Preset: "github"}); err != nil {
		return nil, err
	}
	if s.functions, err = lab.Start(lab.Options{Preset: "generic"}); err != nil {
		return nil, err
	}
	if err := s.build(ctx, "brevetd", "cmd/brevetd"); err != nil {
		return nil, err
	}
	if err := s.startRedis(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// build builds one of the module's programs into the system's folder, as they are
// deployed.
func (s *system) build(ctx context.Context, name, path string) error {
	return command(ctx, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(s.dir, name), "github.com/brevet-dev/brevet/"+path)
}

// startLoaded starts the broker that is loaded, and the floor beside it, to
// exchange for credentials of the system's kind.
func (s *system) startLoaded(ctx context.Context) error {
	for _, start := range []func(context.Context) error{s.startBroker, s.probeBroker, s.startFloor} {
		if err := start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// stop ends everything, in the order that lets each write its last.
func (s *system) stop() error {
	var errs []error
	for _, p := range []*process{s.floor, s.broker, s.redis} {
		if p != nil {
			p.stop()
		}
	}
	if s.client != nil {
		errs = append(errs, s.client.Close())
	}
	for _, issuer := range []*lab.Lab{s.issuer, s.functions} {
		if issuer != nil {
			errs = append(errs, issuer.Close())
		}
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// startRedis starts redis-server with the durability that a broker wants: an
// append-only file, synced every second.
func (s *system) startRedis(ctx context.Context) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	s.redis, err = startProcess(ctx, s.dir, "redis", "redis-server", "--port", port, "--bind", "127.0.0.1",
		"--dir", s.dir, "--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
	if err != nil {
		return err
	}
	s.client = redis.NewClient(&redis.Options{Addr: addr})
	return s.redis.await(ctx, func(ctx context.Context) error { return s.client.Ping(ctx).Err() })
}

// startBroker starts the broker that is loaded.
func (s *system) startBroker(ctx context.Context) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	b := &brevetd{dir: filepath.Join(s.dir, "broker"), url: "https://" + addr, addr: addr}
	err = s.serve(ctx, b)
	s.broker, s.brokerURL, s.adminURL = b.process, b.url, b.adminURL
	return err
}

// serve configures b, makes its root key, and starts it.
func (s *system) serve(ctx context.Context, b *brevetd) error {
	admin, err := freeAddr()
	if err != nil {
		return err
	}
	b.adminURL = "http://" + admin
	if err := s.writeConfig(b); err != nil {
		return err
	}
	program := filepath.Join(s.dir, "brevetd")
	if err := command(ctx, nil, program, "keys", "init", "--config", b.config()); err != nil {
		return err
	}
	if b.process, err = startProcess(ctx, b.dir, "brevetd", program, "serve", "--config", b.config()); err != nil {
		return err
	}
	return b.process.await(ctx, func(ctx context.Context) error {
		_, err := get(ctx, b.adminURL+"/readyz")
		return err
	})
}

// probeBroker makes one exchange, and checks and measures its answer.
func (s *system) probeBroker(ctx context.Context) error {
	answer, err := s.probe(ctx, s.brokerURL)
	if err != nil {
		return fmt.Errorf("the first exchange: %w; brevetd's log ends:\n%s", err, s.broker.tail())
	}
	exchanged, err := api.DecodeTokenResponse(answer.body)
	if err != nil {
		return err
	}
	if exchanged.TokenType != "DPoP" || len(exchanged.Leases) != 1 {
		return errors.New("the first exchange: not one lease bound to a DPoP key")
	}
	s.answerSize, s.brokerTLS = len(answer.body), agreed(answer.tls)
	return nil
}

// startFloor starts this program again, as the floor.
func (s *system) startFloor(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	s.floor, err = startProcess(ctx, s.dir, "floor", self, floorCommand, addr, certFile, keyFile, strconv.Itoa(s.answerSize))
	if err != nil {
		return err
	}
	if err := s.floor.await(ctx, func(ctx context.Context) error { return dialable(ctx, addr) }); err != nil {
		return err
	}
	s.floorURL = "https://" + addr
	answer, err := s.probe(ctx, s.floorURL)
	if err != nil {
		return fmt.Errorf("asking the floor: %w", err)
	}
	s.floorTLS = agreed(answer.tls)
	return nil
}

// probe sends one exchange over a connection of its own.
func (s *system) probe(ctx context.Context, base string) (*answer, error) {
	requests, err := s.makeRequests(ctx, 1)
	if err != nil {
		return nil, err
	}
	var l load
	l.roots, l.fresh = s.roots, true
	return send(ctx, &http.Client{Transport: l.transport(new(atomic.Int64))}, base+api.PathToken, &requests[0])
}

// agreed says what a handshake came to: the key exchange weighs most.
func agreed(state *tls.ConnectionState) string {
	return fmt.Sprintf("%s, %s, %s", tls.VersionName(state.Version), state.CurveID, tls.CipherSuiteName(state.CipherSuite))
}
