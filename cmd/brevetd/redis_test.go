package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/test/servers"
)

// makeCertificates writes ca.pem, and a certificate that it signed as name.crt
// and name.key, which is good for 127.0.0.1.
func makeCertificates(t *testing.T, dir, name string) {
	t.Helper()
	caKey, caCert := certify(t, nil, nil)
	key, cert := certify(t, caCert, caKey)
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		"ca.pem": {Type: "CERTIFICATE", Bytes: caCert.Raw}, name + ".crt": {Type: "CERTIFICATE", Bytes: cert.Raw},
		name + ".key": {Type: "EC PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func certify(t *testing.T, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: rand.Text()}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: parent == nil, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// startTLSRedis starts a Redis that asks clients for a certificate and knows
// the user brevet. It has a Sentinel, in which both hold, too.
func startTLSRedis(t *testing.T, dir string) (server, sentinel string) {
	t.Helper()
	server, sentinel = servers.FreeAddr(t), servers.FreeAddr(t)
	const tls = "tls-port %s\nport 0\nbind 127.0.0.1\ndir %s\nloglevel warning\ntls-cert-file %[2]s/redis.crt\ntls-key-file %[2]s/redis.key\n" +
		"tls-ca-cert-file %[2]s/ca.pem\ntls-auth-clients yes\ntls-replication yes\n"
	_, port, _ := net.SplitHostPort(server)
	_, sentinelPort, _ := net.SplitHostPort(sentinel)
	write := func(name, format string, args ...any) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, fmt.Appendf(nil, format, args...), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	servers.Start(t, exec.Command("redis-server", write("redis.conf", tls+"save \"\"\nappendonly yes\nuser default on nopass ~* &* +@all\n"+
		"user brevet on >right ~brevet:* &* +@all -@dangerous +info\n", port, dir)))
	servers.Start(t, exec.Command("redis-server", write("sentinel.conf", tls+"sentinel monitor mymaster 127.0.0.1 %s 1\n"+
		"user brevet on >watch allchannels +@all\n", sentinelPort, dir, port), "--sentinel"))
	write("password", "right\n")
	write("sentinel.password", "watch\n")
	write("wrong", "wrong\n")
	return server, sentinel
}

func TestRedisByTLS(t *testing.T) {
	dir := t.TempDir()
	makeCertificates(t, dir, "redis")
	server, sentinel := startTLSRedis(t, dir)
	url := "rediss://brevet@" + server + "/0"
	open := func(r redisConfig) error {
		c := &config{dir: dir, Redis: r}
		client, err := c.openRedis(t.Context(), &roundTrips{})
		if err != nil {
			return err
		}
		return client.Close()
	}
	good := redisConfig{URL: url, PasswordFile: "password", CAFile: "ca.pem", CertFile: "redis.crt", KeyFile: "redis.key"}
	servers.Eventually(t, "Redis answers", func() error { return open(good) })
	watched := redisConfig{CAFile: "ca.pem", CertFile: "redis.crt", KeyFile: "redis.key", Sentinel: &sentinelConfig{
		Master: "mymaster", Addrs: []string{sentinel}, User: "brevet", PasswordFile: "password",
		SentinelUser: "brevet", SentinelPasswordFile: "sentinel.password", TLS: true,
	}}
	servers.Eventually(t, "the Sentinel answers", func() error { return open(watched) })

	for name, tt := range map[string]struct {
		edit func(*redisConfig)
		want string // the hint
	}{
		"the authority is not known": {func(r *redisConfig) { r.CAFile = "" }, "ca_file names who certifies Redis"},
		"no certificate of ours":     {func(r *redisConfig) { r.CertFile, r.KeyFile = "", "" }, ""},
		"another password":           {func(r *redisConfig) { r.PasswordFile = "wrong" }, "give the user and its password_file"},
		"no authority in the file":   {func(r *redisConfig) { r.CAFile = "password" }, ""},
		"no TLS":                     {func(r *redisConfig) { r.URL = "redis://brevet@" + server }, ""},
	} {
		r := good
		tt.edit(&r)
		err := open(r)
		if err == nil {
			t.Errorf("%s: connected", name)
			continue
		}
		h, _ := errors.AsType[hint](err)
		if !strings.Contains(h.hint, tt.want) || strings.Contains(err.Error(), "right") {
			t.Errorf("%s: %v, hint %q; want %q", name, err, h.hint, tt.want)
		}
	}
}

// What is wrong at the start stops it, what becomes wrong later is told once.
func TestRedisIsInspected(t *testing.T) {
	server := servers.StartRedis(t, "appendonly", "no")
	var log strings.Builder
	d := &daemon{config: &config{}, log: slog.New(slog.NewTextHandler(&log, nil)), leases: lease.New(server.Client, nil)}
	if err := d.inspectRedis(t.Context(), d.leases); err != nil {
		t.Fatal(err)
	}
	d.inspectAgain(t.Context())
	if n := strings.Count(log.String(), "appendonly yes"); n != 1 {
		t.Errorf("it warned %d times:\n%s", n, &log)
	}
	set := func(policy string) {
		t.Helper()
		if err := server.Client.ConfigSet(context.Background(), "maxmemory-policy", policy).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set("allkeys-lru")
	d.inspectAgain(t.Context())
	if !strings.Contains(log.String(), "nothing is exchanged or renewed") || d.leases.Fit() == nil {
		t.Errorf("an evicting policy was not noticed:\n%s", &log)
	}
	if err := d.inspectRedis(t.Context(), d.leases); !errors.Is(err, lease.ErrUnfit) {
		t.Errorf("a start with an evicting policy = %v", err)
	}
	set("noeviction")
	if d.inspectAgain(t.Context()); d.leases.Fit() != nil {
		t.Errorf("%v, after it was mended", d.leases.Fit())
	}
}
