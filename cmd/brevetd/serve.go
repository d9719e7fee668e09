package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/audit"
	"github.com/brevet-dev/brevet/broker/keys"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/broker/server"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/policies"
)

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the broker",
		Long: "serve runs the broker until SIGTERM or SIGINT, then stops accepting, finishes what\n" +
			"it began, and exits. It takes over policies that change; SIGHUP has it read them at\n" +
			"once, and reopens the audit log.",
		Args: noArgs,
	}
	file := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*file)
		if err != nil {
			return err
		}
		return serve(cmd.Context(), c, slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), nil)), nil)
	}
	return cmd
}

// gcPercent lets the heap grow to five times of what lives before it is
// collected. Little lives: 20 MB, and 30 MB more with 10 000 policies; but an
// exchange leaves 100 kB behind. It saves a twentieth of the CPU.
const gcPercent = 400

// serve runs the broker until ctx ends. ready, if not nil, is called when it
// accepts.
func serve(ctx context.Context, c *config, log *slog.Logger, ready func()) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	d, err := build(ctx, c, log)
	if err != nil {
		return err
	}
	defer d.close()
	listeners, err := c.listen()
	if err != nil {
		return err
	}
	d.start(ctx)
	start := &broker.Event{Time: time.Now(), Name: broker.EventStart, Policies: d.policies.Current().Digest()}
	if err := d.audit.Record(ctx, start); err != nil {
		return fmt.Errorf("recording the start: %w", err)
	}
	log.Info("serving", "url", c.URL, "listen", c.Listen, "redis", c.Redis.topology(), "root", d.root.Kind(), "policies", d.policies.Current().Len(), "version", version)
	return d.serve(ctx, listeners, ready)
}

// A daemon is a running broker with all that it is made of.
type daemon struct {
	config        *config
	log           *slog.Logger
	redis         redis.UniversalClient
	trips         roundTrips // to redis
	redisWarnings []string   // the last; of the watcher's
	root          keys.Root
	ring          *keys.Ring
	epochs        *keys.Epochs
	audit         *audit.Log
	issuers       *issuers.Set
	policies      *policies.Live
	reloader      *reloader // of policies
	leases        *lease.Store
	broker        *broker.Broker
	metrics       *server.Metrics

	reconciled *reconciled

	loops sync.WaitGroup
	stop  context.CancelFunc
}

// build makes the parts, innermost first, and connects them. After an error
// nothing is left open.
func build(ctx context.Context, c *config, log *slog.Logger) (_ *daemon, err error) {
	d := &daemon{config: c, log: log, stop: func() {}}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.reloader, err = newReloader(ctx, c, log); err != nil {
		return nil, fmt.Errorf("loading policies:\n%w", err)
	}
	d.policies = d.reloader.live
	if d.issuers, err = issuers.New(c.Issuers); err != nil {
		return nil, fmt.Errorf("issuers: %w", err)
	}
	if err := d.openStores(ctx); err != nil {
		return nil, err
	}
	d.reloader.audit = d.audit
	targets, err := c.targets(runningSigner{d.epochs, d.ring})
	if err != nil {
		return nil, err
	}
	d.broker, err = broker.New(&broker.Broker{
		URL: c.URL, Issuers: d.issuers, Policies: d.policies, Leases: d.leases,
		Audit: d.audit, Sessions: d.epochs, DataKeys: d.ring, Targets: targets, Keys: d.keysInUse,
	})
	if err != nil {
		return nil, err
	}
	d.metrics = d.newMetrics()
	d.reconciled = newReconciled(d.metrics)
	return d, nil
}

// openStores opens what lives outside of the process: Redis, root, audit log.
func (d *daemon) openStores(ctx context.Context) (err error) {
	if d.redis, err = d.config.openRedis(ctx, &d.trips); err != nil {
		return err
	}
	if err := d.inspectRedis(ctx, lease.New(d.redis, nil).WaitReplicas(d.config.Redis.WaitReplicas)); err != nil {
		return err
	}
	if d.root, err = d.config.openRoot(ctx); err != nil {
		return err
	}
	if d.root.Kind() == "software" {
		d.log.Warn("the root is a software key: whoever copies its file has the root; use it for development only", "root", d.root.Kind())
	}
	return d.openKeys(ctx)
}

// openKeys opens what hangs on the root. The ring comes before the epochs, as
// it says whose epochs count; the audit log, whose checkpoints an epoch signs,
// comes last. What the ring has to tell until then is told when it is open.
func (d *daemon) openKeys(ctx context.Context) (err error) {
	var early []*broker.Event
	d.ring, err = keys.OpenRing(ctx, d.redis, d.config.ringOptions(d.root, d.log, func(ctx context.Context, c keys.RingChange) error {
		if d.audit == nil {
			early = append(early, ringEvent(c))
			return nil
		}
		return d.audit.Record(ctx, ringEvent(c))
	}))
	if err != nil {
		return noRing(err)
	}
	d.leases = lease.New(d.redis, d.ring).WaitReplicas(d.config.Redis.WaitReplicas)
	d.epochs = keys.NewEpochs(d.root, keys.NewRedisBoard(d.redis), keys.EpochOptions{URL: d.config.URL, Roots: d.ring.Roots, Log: d.log})
	if err := d.epochs.Start(ctx); err != nil {
		return fmt.Errorf("making the first epoch keys: %w", err)
	}
	d.audit, err = audit.Open(d.config.path(d.config.Audit.File), audit.Options{Sign: d.epochs.SignArchival})
	if err != nil {
		return err
	}
	for _, ev := range early {
		err = errors.Join(err, d.audit.Record(ctx, ev))
	}
	return err
}

// ringEvent is the audit line of a new version of the ring.
func ringEvent(c keys.RingChange) *broker.Event {
	return &broker.Event{Time: time.Now(), Name: broker.EventRingChange, Outcome: broker.Granted, Ring: &broker.EventRing{
		Version: c.Version, Digest: c.Digest, By: c.By, Change: c.Change, Members: c.Members, KEK: c.KEK,
	}}
}

// keysInUse returns the keys that make what is new.
func (d *daemon) keysInUse() broker.Keys {
	out := broker.Keys{Signing: d.epochs.Status().KeyID}
	for _, kek := range d.ring.Status().KEKs {
		if kek.Newest {
			out.KEK = kek.ID
		}
	}
	return out
}

// A runningSigner is what minters sign and wrap with.
type runningSigner struct {
	*keys.Epochs
	*keys.Ring
}

func (d *daemon) newMetrics() *server.Metrics {
	m := server.NewMetrics()
	m.Gauge("brevet_root_info", "The kind of root key; always 1.", map[string]string{"kind": d.root.Kind()}, func() float64 { return 1 })
	m.Gauge("brevet_root_up", "1 if the root could be used when it was last asked; 0: see the log.", nil, func() float64 { return truth(d.epochs.Status().RootErr == nil) })
	if counted, ok := d.root.(interface{ Operations() uint64 }); ok {
		m.CounterFunc("brevet_root_operations_total", "Commands sent to the TPM or HSM.", func() float64 { return float64(counted.Operations()) })
	}
	m.Gauge("brevet_ring_version", "Version of the fleet's ring of keys in force here.", nil, func() float64 { return float64(d.ring.Status().Version) })
	m.Gauge("brevet_ring_up", "1 if the ring in Redis could be read and is the one in force; 0: see the log.", nil, func() float64 { return truth(d.ring.Status().Err == nil) })
	m.CounterFunc("brevet_ring_rollbacks_total", "Times that Redis held no ring, or an older one.", func() float64 { return float64(d.ring.Status().Rollbacks) })
	m.Gauge("brevet_epoch_seconds_left", "Seconds until nothing can be signed without the root.", nil, func() float64 {
		return max(0, time.Until(d.epochs.Status().Until).Seconds())
	})
	d.reloader.measure(m)
	m.CounterFunc("brevet_audit_lines_total", "The seq of the last line of the audit log.", func() float64 { return float64(d.audit.Status().Seq) })
	m.CounterFunc("brevet_audit_syncs_total", "Syncs of the audit log to disk; one may serve many lines.", func() float64 { return float64(d.audit.Status().Syncs) })
	m.Gauge("brevet_audit_unsealed_lines", "Lines of the audit log after its last checkpoint.", nil, func() float64 { return float64(d.audit.Status().Unsealed) })
	for _, status := range d.issuers.Status() {
		m.Gauge("brevet_issuer_keys_age_seconds", "Seconds since the issuer's keys were fetched; -1: never.", map[string]string{"issuer": status.Issuer}, d.keysAge(status.Issuer))
		m.Gauge("brevet_issuer_keys_seconds_left", "Seconds for which the issuer's keys are believed if they cannot be fetched again; 0: its tokens are refused.", map[string]string{"issuer": status.Issuer}, d.keysLeft(status.Issuer))
	}
	m.Gauge("brevet_listeners", "Streams of events that are open.", nil, func() float64 { return float64(d.broker.Listeners()) })
	m.Gauge("brevet_exchanges_working", "Exchanges that are worked on.", nil, func() float64 { return float64(d.broker.Load().Working) })
	m.Gauge("brevet_exchanges_waiting", "Exchanges that wait for their turn.", nil, func() float64 { return float64(d.broker.Load().Waiting) })
	m.CounterFunc("brevet_exchanges_busy_total", "Exchanges that were told to come later, because too many were at work.", func() float64 { return float64(d.broker.Load().Refused) })
	m.CounterFunc("brevet_token_cache_hits_total", "Subject tokens that were shown again and not verified again.", func() float64 { return float64(d.issuers.CacheStatus().Hits) })
	m.CounterFunc("brevet_token_cache_misses_total", "Subject tokens of issuers whose tokens are shown more than once, that were verified.", func() float64 { return float64(d.issuers.CacheStatus().Misses) })
	m.Gauge("brevet_leases_stuck", "Leases whose credential could not be ended at its target; -1: Redis does not answer.", nil, d.stuck)
	m.Gauge("brevet_blocks", "Blocks that operators have set; -1: Redis does not answer.", nil, d.blocks)
	m.CounterFunc("brevet_blocked_total", "Exchanges and renewals that a block refused.", func() float64 { return float64(d.broker.Blocked()) })
	for _, cred := range d.config.Credentials {
		m.Gauge("brevet_target_up", "0 while the revocations at the target of a credential fail.", map[string]string{"credential": cred.Name}, func() float64 { return truth(d.broker.TargetUp(cred.Name)) })
	}
	m.CounterFunc("brevet_redis_round_trips_total", "Requests sent to Redis, a pipeline counting as one.", func() float64 { return float64(d.trips.n.Load()) })
	m.Gauge("brevet_redis_fit", "1 if Redis was set up to keep leases when it was last asked; 0: see the log.", nil, func() float64 { return truth(d.leases.Fit() == nil) })
	return m
}

func (d *daemon) keysAge(issuer string) func() float64 {
	return func() float64 {
		if fetched := d.keysStatus(issuer).Fetched; !fetched.IsZero() {
			return time.Since(fetched).Seconds()
		}
		return -1
	}
}

func (d *daemon) keysLeft(issuer string) func() float64 {
	return func() float64 {
		if until := d.keysStatus(issuer).Until; !until.IsZero() {
			return max(0, time.Until(until).Seconds())
		}
		return 0
	}
}

func (d *daemon) keysStatus(issuer string) issuers.Status {
	for _, status := range d.issuers.Status() {
		if status.Issuer == issuer {
			return status
		}
	}
	return issuers.Status{}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// metricTimeout bounds what a scrape may ask of Redis.
const metricTimeout = 2 * time.Second

func (d *daemon) stuck() float64 {
	ctx, cancel := context.WithTimeout(context.Background(), metricTimeout)
	defer cancel()
	n, err := d.leases.Stuck(ctx)
	if err != nil {
		return -1
	}
	return float64(n)
}

// start starts the loops that run beside the server. They outlive ctx until the
// server has finished.
func (d *daemon) start(ctx context.Context) {
	ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	d.loops.Go(func() { d.ring.Run(ctx) })
	d.loops.Go(func() { d.epochs.Run(ctx) })
	d.loops.Go(func() { d.issuers.Run(ctx, d.log) })
	d.loops.Go(func() { d.watchRedis(ctx) })
	d.loops.Go(func() { d.broker.Sweep(ctx, func(err error) { d.log.Error("sweeping leases", "error", err) }) })
	d.loops.Go(func() { d.broker.Watch(ctx) })
	d.loops.Go(func() { d.reconcile(ctx) })
	d.loops.Go(func() { d.readOrders(ctx) })
	d.loops.Go(func() { d.reload(ctx) })
}

// close stops the loops and closes the stores, in the order that lets each
// write its last.
func (d *daemon) close() {
	d.stop()
	d.loops.Wait()
	closeTargets(d.broker)
	if d.audit != nil {
		if err := d.audit.Close(); err != nil {
			d.log.Error("closing the audit log", "error", err)
		}
	}
	if d.root != nil {
		if err := d.root.Close(); err != nil {
			d.log.Error("closing the root", "error", err)
		}
	}
	if d.redis != nil {
		if err := d.redis.Close(); err != nil {
			d.log.Error("closing the connection to Redis", "error", err)
		}
	}
}

// ready reports what keeps the broker from exchanging, and what will if nobody
// looks after it.
func (d *daemon) ready(ctx context.Context) (warning, err error) {
	epochs, ring := d.epochs.Status(), d.ring.Status()
	if epochs.KeyID == "" {
		return nil, fmt.Errorf("no epoch key: %w", errors.Join(errors.New("the root must certify one"), epochs.RootErr))
	}
	if epochs.RootErr != nil {
		warning = fmt.Errorf("the root is away, and nothing can be signed after %s: %w", epochs.Until.Format(time.RFC3339), epochs.RootErr)
	}
	if errors.Is(ring.Err, keys.ErrNotMember) {
		return nil, ring.Err
	}
	return errors.Join(warning, ring.Err), errors.Join(d.leases.Check(ctx), d.audit.Status().Err)
}

// trust returns the bundle that vouches for the fleet's keys.
func (d *daemon) trust() ([]byte, error) {
	return d.ring.Bundle(d.epochs.Certificates()).Encode()
}

// A listening pair: the public surface and, if there is one, the operators'.
type listening struct{ public, admin net.Listener }

func (c *config) listen() (_ listening, err error) {
	var l listening
	if l.public, err = net.Listen("tcp", c.Listen); err != nil {
		return l, fmt.Errorf("listening: %w", err)
	}
	if c.TLS != nil {
		// Read once, here, so that a bad certificate stops the start.
		cert, err := tls.LoadX509KeyPair(c.path(c.TLS.Cert), c.path(c.TLS.Key))
		if err != nil {
			return l, errors.Join(fmt.Errorf("reading the TLS certificate: %w", err), l.public.Close())
		}
		l.public = tls.NewListener(l.public, &tls.Config{
			Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		})
	}
	if c.AdminListen == "" {
		return l, nil
	}
	if l.admin, err = net.Listen("tcp", c.AdminListen); err != nil {
		return l, errors.Join(fmt.Errorf("listening for operators: %w", err), l.public.Close())
	}
	return l, nil
}

// shutdownGrace is how long requests may take to finish after SIGTERM: the 30 s
// that minting may take, and a little.
const shutdownGrace = 35 * time.Second

// serve accepts until ctx ends, then lets what was begun finish.
func (d *daemon) serve(ctx context.Context, l listening, ready func()) error {
	s := &server.Server{Broker: d.broker, Log: d.log, Metrics: d.metrics, JWKS: d.epochs.JWKS, Trust: d.trust, Ready: d.ready, Policies: d.policyStatus}
	public, admin := newHTTPServer(s.Handler()), newHTTPServer(s.Admin())
	public.RegisterOnShutdown(d.broker.EndListening)
	servers := []*http.Server{public}
	failed := make(chan error, 2)
	go func() { failed <- public.Serve(l.public) }()
	if l.admin != nil {
		servers = append(servers, admin)
		go func() { failed <- admin.Serve(l.admin) }()
	}
	if ready != nil {
		ready()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	d.log.Info("stopping: finishing what was begun")
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	for _, server := range servers {
		err = errors.Join(err, server.Shutdown(grace))
	}
	return errors.Join(err, d.audit.Record(grace, &broker.Event{Time: time.Now(), Name: broker.EventStop}))
}

// newHTTPServer bounds what a client can hold up. Requests are small; the
// longest answer waits 30 s for a target.
func newHTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 60 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // strangers' broken handshakes
	}
}
