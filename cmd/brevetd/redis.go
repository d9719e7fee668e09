package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/policies/strictyaml"
)

// redisConfig says where Redis is: exactly one of url, sentinel and cluster.
// Danger: without TLS, whoever is on the way reads and changes leases.
type redisConfig struct {
	// URL is redis://[user@]host:port[/db], or rediss:// for TLS, or ${NAME}
	// for the value of an environment variable.
	URL string `yaml:"url"`

	// PasswordFile holds the password of url, so that it stands in no
	// configuration.
	PasswordFile string `yaml:"password_file"`

	// Sentinel is a primary with replicas, which Sentinels watch over.
	Sentinel *sentinelConfig `yaml:"sentinel"`

	// Cluster is a Redis Cluster.
	Cluster *clusterConfig `yaml:"cluster"`

	// CAFile is a PEM bundle of the authorities that may certify the names of
	// Redis' nodes. Default: the system's.
	CAFile string `yaml:"ca_file"`

	// CertFile and KeyFile are the broker's own certificate, for a Redis that
	// asks for one. Default: none.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`

	// WaitReplicas is how many replicas must have a change before it counts.
	// Default 0: a failover may lose what was changed in the last moments.
	WaitReplicas int `yaml:"wait_replicas"`
}

type sentinelConfig struct {
	Master       string   `yaml:"master"` // the name that Sentinels know the primary by
	Addrs        []string `yaml:"addrs"`  // host:port of Sentinels; more are found by themselves
	User         string   `yaml:"user"`   // at Redis; "" is its default user
	PasswordFile string   `yaml:"password_file"`

	// SentinelUser and SentinelPasswordFile are for the Sentinels, which have
	// users of their own. Default: they ask for none.
	SentinelUser         string `yaml:"sentinel_user"`
	SentinelPasswordFile string `yaml:"sentinel_password_file"`

	TLS bool `yaml:"tls"` // to Sentinels and Redis alike
}

type clusterConfig struct {
	Addrs        []string `yaml:"addrs"` // host:port of some nodes; the rest are found by themselves
	User         string   `yaml:"user"`
	PasswordFile string   `yaml:"password_file"`
	TLS          bool     `yaml:"tls"`
}

// maxWaitReplicas is far beyond what anyone has.
const maxWaitReplicas = 10

// validateRedis reads neither the environment nor files: check also runs where
// they are not, such as in the CI of a repository of policies.
func (c *config) validateRedis(p *place) {
	r, at := &c.Redis, strictyaml.Path{"redis"}
	given := 0
	for _, has := range []bool{r.URL != "", r.Sentinel != nil, r.Cluster != nil} {
		if has {
			given++
		}
	}
	switch {
	case given != 1:
		p.bad(at, "redis needs exactly one of url, sentinel and cluster; url: redis://host:6379/0 is a single server")
	case r.URL != "":
		r.validateURL(p, at)
	case r.Sentinel != nil:
		r.Sentinel.validate(p, append(slices.Clone(at), "sentinel"))
	default:
		validateAddrs(p, append(slices.Clone(at), "cluster"), r.Cluster.Addrs)
	}
	if r.URL == "" && r.PasswordFile != "" {
		p.bad(append(slices.Clone(at), "password_file"), "redis.password_file belongs to redis.url; sentinel and cluster have their own")
	}
	if r.WaitReplicas < 0 || r.WaitReplicas > maxWaitReplicas {
		p.bad(append(slices.Clone(at), "wait_replicas"), "redis.wait_replicas must be from 0 to %d: how many replicas have a change before it counts", maxWaitReplicas)
	}
	r.validateTLS(p, at)
}

func (r *redisConfig) validateURL(p *place, at strictyaml.Path) {
	if _, fromEnvironment := r.variable(); fromEnvironment {
		return
	}
	if _, err := parseRedisURL(r.URL); err != nil {
		p.bad(append(slices.Clone(at), "url"), "%v", err)
	}
}

func (s *sentinelConfig) validate(p *place, at strictyaml.Path) {
	if s.Master == "" {
		p.bad(at, "redis.sentinel.master is missing: the name after \"sentinel monitor\" in the Sentinels' configuration")
	}
	if s.SentinelUser != "" && s.SentinelPasswordFile == "" {
		p.bad(append(slices.Clone(at), "sentinel_user"), "redis.sentinel.sentinel_user needs sentinel_password_file")
	}
	validateAddrs(p, at, s.Addrs)
}

func validateAddrs(p *place, at strictyaml.Path, addrs []string) {
	name := fmt.Sprint("redis.", at[len(at)-1])
	if len(addrs) == 0 {
		p.bad(at, "%s.addrs is missing: [host:port, …]", name)
	}
	for i, addr := range addrs {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			p.bad(append(slices.Clone(at), "addrs", i), "%s.addrs must be host:port each, without redis://", name)
		}
	}
}

func (r *redisConfig) validateTLS(p *place, at strictyaml.Path) {
	switch {
	case r.CertFile != "" && r.KeyFile == "":
		p.bad(append(slices.Clone(at), "cert_file"), "redis.cert_file needs redis.key_file, its private key")
	case r.CertFile == "" && r.KeyFile != "":
		p.bad(append(slices.Clone(at), "key_file"), "redis.key_file needs redis.cert_file, the certificate")
	}
	if _, fromEnvironment := r.variable(); fromEnvironment || r.wantsTLS() {
		return
	}
	for name, file := range map[string]string{"ca_file": r.CAFile, "cert_file": r.CertFile} {
		if file != "" {
			p.bad(append(slices.Clone(at), name), "redis.%s is of no use without TLS; use rediss://, or tls: true", name)
		}
	}
}

func (r *redisConfig) wantsTLS() bool {
	switch {
	case r.Sentinel != nil:
		return r.Sentinel.TLS
	case r.Cluster != nil:
		return r.Cluster.TLS
	}
	return strings.HasPrefix(r.URL, "rediss://")
}

// variable returns the name in redis.url: ${NAME}.
func (r *redisConfig) variable() (string, bool) {
	name, ok := strings.CutPrefix(r.URL, "${")
	return strings.TrimSuffix(name, "}"), ok && strings.HasSuffix(name, "}")
}

// topology says what kind of Redis is configured.
func (r *redisConfig) topology() string {
	switch {
	case r.Sentinel != nil:
		return fmt.Sprintf("primary %s of the Sentinels at %s", r.Sentinel.Master, strings.Join(r.Sentinel.Addrs, ", "))
	case r.Cluster != nil:
		return "cluster of the nodes at " + strings.Join(r.Cluster.Addrs, ", ")
	}
	if name, ok := r.variable(); ok {
		return "single server, named by $" + name
	}
	if o, err := parseRedisURL(r.URL); err == nil {
		return "single server at " + o.Addr
	}
	return "single server"
}

func parseRedisURL(raw string) (*redis.Options, error) {
	if raw == "" {
		return nil, errors.New("redis.url is missing, or the variable it names is empty: redis://host:6379/0")
	}
	o, err := redis.ParseURL(raw)
	if err != nil {
		return nil, errors.New("redis.url is not of the form redis://[user@]host:port[/db]") // err may quote a password
	}
	return o, nil
}

// redisRetries is how often the client repeats by itself what failed or whose
// answer was lost. Every script may be run again. The client of the broker
// tries again, too, with Retry-After.
const redisRetries = 1

// redisDials is how often an address is dialled, 100 ms apart.
const redisDials = 2

// newRedis makes the client, which connects when it is used. In all of them a
// context ends a command: a Redis that hangs must not hold up a request for
// longer than it may take.
func (c *config) newRedis(counting redis.Hook) (redis.UniversalClient, error) {
	tlsConfig, err := c.redisTLS()
	if err != nil {
		return nil, err
	}
	var client *redis.Client
	switch {
	case c.Redis.Cluster != nil:
		return c.newRedisCluster(tlsConfig, counting)
	case c.Redis.Sentinel != nil:
		client, err = c.newRedisSentinel(tlsConfig)
	default:
		client, err = c.newRedisServer(tlsConfig)
	}
	if err != nil {
		return nil, err
	}
	client.AddHook(counting)
	return client, nil
}

func (c *config) newRedisServer(tlsConfig *tls.Config) (*redis.Client, error) {
	raw := c.Redis.URL
	if name, ok := c.Redis.variable(); ok {
		raw = os.Getenv(name)
	}
	o, err := parseRedisURL(raw)
	if err != nil {
		return nil, err
	}
	o.ContextTimeoutEnabled, o.MaxRetries, o.DialerRetries = true, redisRetries, redisDials
	if o.TLSConfig != nil {
		tlsConfig.ServerName = o.TLSConfig.ServerName
		o.TLSConfig = tlsConfig
	}
	if c.Redis.PasswordFile == "" {
		return redis.NewClient(o), nil
	}
	if o.Password, err = c.passwordIn("redis.password_file", c.Redis.PasswordFile); err != nil {
		return nil, err
	}
	return redis.NewClient(o), nil
}

func (c *config) newRedisSentinel(tlsConfig *tls.Config) (*redis.Client, error) {
	s := c.Redis.Sentinel
	o := &redis.FailoverOptions{
		MasterName: s.Master, SentinelAddrs: s.Addrs, Username: s.User, SentinelUsername: s.SentinelUser,
		ContextTimeoutEnabled: true, MaxRetries: redisRetries, DialerRetries: redisDials,
	}
	if s.TLS {
		o.TLSConfig = tlsConfig
	}
	var err, sentinelErr error
	o.Password, err = c.passwordIn("redis.sentinel.password_file", s.PasswordFile)
	o.SentinelPassword, sentinelErr = c.passwordIn("redis.sentinel.sentinel_password_file", s.SentinelPasswordFile)
	if err = errors.Join(err, sentinelErr); err != nil {
		return nil, err
	}
	return redis.NewFailoverClient(o), nil
}

func (c *config) newRedisCluster(tlsConfig *tls.Config, counting redis.Hook) (redis.UniversalClient, error) {
	o := &redis.ClusterOptions{
		Addrs: c.Redis.Cluster.Addrs, Username: c.Redis.Cluster.User,
		ContextTimeoutEnabled: true, MaxRetries: redisRetries, DialerRetries: redisDials,
	}
	if c.Redis.Cluster.TLS {
		o.TLSConfig = tlsConfig
	}
	var err error
	if o.Password, err = c.passwordIn("redis.cluster.password_file", c.Redis.Cluster.PasswordFile); err != nil {
		return nil, err
	}
	client := redis.NewClusterClient(o)
	client.OnNewNode(func(node *redis.Client) { node.AddHook(counting) })
	return client, nil
}

// passwordIn returns what is in a file, or "" if there is none.
func (c *config) passwordIn(field, file string) (string, error) {
	if file == "" {
		return "", nil
	}
	password, err := os.ReadFile(c.path(file))
	if err != nil {
		return "", fmt.Errorf("%s: %w", field, err)
	}
	return strings.TrimRight(string(password), "\r\n"), nil
}

// redisTLS is used if TLS is wanted.
func (c *config) redisTLS() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.Redis.CAFile != "" {
		pem, err := os.ReadFile(c.path(c.Redis.CAFile))
		if err != nil {
			return nil, fmt.Errorf("redis.ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("redis.ca_file: there is no certificate in it")
		}
	}
	if c.Redis.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.path(c.Redis.CertFile), c.path(c.Redis.KeyFile))
		if err != nil {
			return nil, fmt.Errorf("redis.cert_file: %w", err)
		}
		out.Certificates = []tls.Certificate{cert}
	}
	return out, nil
}

// openRedis connects to Redis. That it answers was checked.
func (c *config) openRedis(ctx context.Context, trips *roundTrips) (redis.UniversalClient, error) {
	redis.SetLogger(quiet{}) // it would write its own lines between ours; its errors come back to us
	client, err := c.newRedis(trips)
	if err != nil {
		return nil, err
	}
	if err := client.Ping(ctx).Err(); err != nil {
		return nil, errors.Join(c.noRedis(err), client.Close())
	}
	return client, nil
}

// noRedis adds what to do to an error of connecting to Redis.
func (c *config) noRedis(err error) error {
	err = fmt.Errorf("connecting to Redis, %s: %w", c.Redis.topology(), err)
	switch text := err.Error(); {
	case redis.IsAuthError(err):
		return hint{err, "give the user and its password_file; a password is the one of ACL SETUSER or requirepass"}
	case redis.IsPermissionError(err):
		return hint{err, "the broker's user needs: ACL SETUSER <user> on ~brevet:* &* +@all -@dangerous +info +cluster"}
	case strings.Contains(text, "x509:") || strings.Contains(text, "tls:"):
		return hint{err, "ca_file names who certifies Redis; its certificates must carry the names or IP addresses under which nodes are found"}
	case strings.Contains(text, "cluster support disabled"):
		return hint{err, "it is not a cluster; write redis: {url: redis://host:6379/0}"}
	case c.Redis.Sentinel != nil:
		return hint{err, "ask a Sentinel: redis-cli -h HOST -p 26379 SENTINEL get-master-addr-by-name " + c.Redis.Sentinel.Master}
	case c.Redis.Cluster != nil:
		return hint{err, "ask a node: redis-cli -h HOST CLUSTER NODES; the addresses that it names must be reachable from here"}
	}
	return hint{err, "start it, or correct redis.url"}
}

// quiet is a logger for go-redis.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// inspectEvery is how soon a setting that was changed is noticed.
const inspectEvery = time.Minute

// inspectRedis refuses a Redis that may lose leases, and warns of one that
// might.
func (d *daemon) inspectRedis(ctx context.Context, leases *lease.Store) error {
	if d.config.isDev {
		return nil
	}
	warnings, err := leases.Inspect(ctx)
	if err != nil {
		return fmt.Errorf("asking Redis how it is set up: %w", err)
	}
	for _, w := range warnings {
		d.log.Warn(w)
	}
	d.redisWarnings = warnings
	return nil
}

// watchRedis asks again from time to time, until ctx ends.
func (d *daemon) watchRedis(ctx context.Context) {
	if d.config.isDev {
		return
	}
	tick := time.NewTicker(inspectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.inspectAgain(ctx)
		}
	}
}

// inspectAgain tells what is new. That Redis does not answer others tell.
func (d *daemon) inspectAgain(ctx context.Context) {
	warnings, err := d.leases.Inspect(ctx)
	if errors.Is(err, lease.ErrUnfit) {
		d.log.Error("nothing is exchanged or renewed until this is mended", "error", err)
	} else if err != nil {
		return
	}
	for _, w := range warnings {
		if !slices.Contains(d.redisWarnings, w) {
			d.log.Warn(w)
		}
	}
	d.redisWarnings = warnings
}

// roundTrips counts what is sent to Redis.
type roundTrips struct{ n atomic.Uint64 }

func (r *roundTrips) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *roundTrips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		r.n.Add(1)
		return next(ctx, cmd)
	}
}

func (r *roundTrips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		r.n.Add(1)
		return next(ctx, cmds)
	}
}
