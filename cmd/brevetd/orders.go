package main

import (
	"context"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// ordersEvery is how late an order may be recorded. It counts from when it was
// given: what it does, the command does in Redis.
const ordersEvery = time.Second

// readOrders records every order that operators give, until ctx ends: each
// broker of the fleet has a line of each, so that none is without one because a
// broker, or its disk, was away.
func (d *daemon) readOrders(ctx context.Context) {
	reader := trust.Fingerprint(d.root.Certificate())
	tick := time.NewTicker(ordersEvery)
	defer tick.Stop()
	for {
		err := d.leases.ReadOrders(ctx, reader, func(o *broker.Order) error { return d.audit.Record(ctx, o.Event()) })
		if err != nil && ctx.Err() == nil {
			d.log.Error("recording operators' orders", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *daemon) blocks() float64 {
	ctx, cancel := context.WithTimeout(context.Background(), metricTimeout)
	defer cancel()
	blocks, err := d.leases.Blocks(ctx)
	if err != nil {
		return -1
	}
	return float64(len(blocks))
}
