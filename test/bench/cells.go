package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/brevet-dev/brevet/broker/api"
)

// The two ways to connect.
const (
	keepAlive     = "keep-alive" // one connection a client
	newConnection = "new"        // a TLS handshake for each exchange, as CI jobs do
)

// The two servers under load.
const (
	theBroker = "broker"
	theFloor  = "floor"
)

// A cell is one server under one kind of load.
type cell struct {
	server     string
	connection string
	clients    int
	sample     sample
	usage      usage
}

func newCell(server string, l load) *cell {
	connection := keepAlive
	if l.fresh {
		connection = newConnection
	}
	return &cell{server: server, connection: connection, clients: l.clients}
}

// measure runs every cell and returns the report. An error is one of the
// benchmark itself; exchanges that fail are in the report.
func measure(ctx context.Context, o *options, progress io.Writer) (_ *report, err error) {
	fmt.Fprintln(progress, "bench: building brevetd and starting it, and Redis")
	sys, err := startSystem(ctx, o.kind)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sys.stop()) }()
	r := &report{}
	if r.Environment, err = sys.environment(ctx); err != nil {
		return nil, err
	}
	if !o.coldStart {
		err = sys.measureLoads(ctx, o, r, progress)
	}
	if err == nil && o.starts > 0 {
		err = sys.measureCold(ctx, o.starts, r, progress)
	}
	return r, err
}

// measureLoads adds the cells and the storms to the report.
func (s *system) measureLoads(ctx context.Context, o *options, r *report, progress io.Writer) error {
	if err := s.startLoaded(ctx); err != nil {
		return err
	}
	r.Environment.BrokerTLS, r.Environment.FloorTLS = s.brokerTLS, s.floorTLS
	for _, connection := range []string{keepAlive, newConnection} {
		for _, clients := range o.clients {
			l := load{roots: s.roots, clients: clients, fresh: connection == newConnection, duration: o.duration}
			broker, floor, err := s.measurePair(ctx, l)
			if err != nil {
				return fmt.Errorf("measuring %s, %d at once: %w", connection, clients, err)
			}
			r.addPair(broker, floor)
			fmt.Fprintf(progress, "bench: %s, %d at once: %.0f exchanges/s\n", connection, clients, broker.sample.perSecond())
		}
	}
	if o.storm == 0 {
		return nil
	}
	return s.measureStorms(ctx, o.storm, r, progress)
}

// measurePair loads the broker, and the floor before and after it, so that
// whatever else the machine is busy with weighs on both.
func (s *system) measurePair(ctx context.Context, l load) (broker, floor *cell, err error) {
	requests, err := s.prepare(ctx, l)
	if err != nil {
		return nil, nil, err
	}
	broker, floor = newCell(theBroker, l), newCell(theFloor, l)
	quarter := l
	quarter.duration /= 4
	err = s.observe(ctx, quarter, floor, cycle(requests))
	if err == nil {
		err = s.observe(ctx, l, broker, once(requests))
	}
	if err == nil {
		err = s.observe(ctx, quarter, floor, cycle(requests))
	}
	return broker, floor, err
}

// warmUp is how many exchanges, and how many more for each client, tell how
// many the cell will need; they also fill pools and caches.
const warmUp, warmUpPerClient = 200, 20

// prepare makes the requests of a cell: a quarter more than the broker can
// serve by what a warm-up says. If they are used up all the same, the cell ends
// early.
func (s *system) prepare(ctx context.Context, l load) ([]request, error) {
	requests, err := s.makeRequests(ctx, warmUp+warmUpPerClient*l.clients)
	if err != nil {
		return nil, err
	}
	l.url = s.brokerURL + api.PathToken
	warm := l.run(ctx, once(requests))
	if warm.firstError != nil {
		return nil, fmt.Errorf("warming up: %w", warm.firstError)
	}
	needed := 1.25 * warm.perSecond() * l.duration.Seconds()
	return s.makeRequests(ctx, l.clients+int(math.Ceil(needed)))
}

// observe adds one run of l to c, with what it cost.
func (s *system) observe(ctx context.Context, l load, c *cell, next func() *request) error {
	server := s.broker
	l.url = s.brokerURL + api.PathToken
	if c.server == theFloor {
		server = s.floor
		l.url = s.floorURL + api.PathToken
	}
	before, err := s.usage(ctx, server)
	if err != nil {
		return err
	}
	run := l.run(ctx, next)
	after, err := s.usage(ctx, server)
	if err != nil {
		return errors.Join(err, run.firstError) // the server may be gone
	}
	c.sample.add(run)
	c.usage = c.usage.plus(after.minus(before))
	if l.fresh && c.sample.connections < len(c.sample.latencies) {
		return errors.New("connections were used twice; the numbers would not be those of new ones")
	}
	return context.Cause(ctx)
}
