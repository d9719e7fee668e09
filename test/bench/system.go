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

// startSystem builds the broker and starts everything, to exchange for
// credentials of a kind. After an error nothing
// is left running.
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
	for _, start := range []func(context.Context) error{s.startRedis, s.startBroker, s.probeBroker, s.startFloor} {
		if err := start(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
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

// startBroker builds brevetd, makes its root key, and serves.
func (s *system) startBroker(ctx context.Context) error {
	brevetd, config := filepath.Join(s.dir, "brevetd"), filepath.Join(s.dir, "brevetd.yaml")
	err := command(ctx, []string{"CGO_ENABLED=0"}, "go", "build", "-o", brevetd, "github.com/brevet-dev/brevet/cmd/brevetd")
	if err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	admin, err := freeAddr()
	if err != nil {
		return err
	}
	s.brokerURL, s.adminURL = "https://"+addr, "http://"+admin
	if err := s.writeConfig(addr, admin); err != nil {
		return err
	}
	if err := command(ctx, nil, brevetd, "keys", "init", "--config", config); err != nil {
		return err
	}
	if s.broker, err = startProcess(ctx, s.dir, "brevetd", brevetd, "serve", "--config", config); err != nil {
		return err
	}
	return s.broker.await(ctx, func(ctx context.Context) error {
		_, err := get(ctx, s.adminURL+"/readyz")
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
