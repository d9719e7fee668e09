package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// Files in the system's folder.
const (
	certFile = "tls.crt"
	keyFile  = "tls.key"
)

// writeCertificate makes a TLS certificate for 127.0.0.1, on P-256 as most of
// the web's are, and returns the pool that trusts it.
func writeCertificate(dir string) (*x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a TLS key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "brevet bench"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making a TLS certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a TLS key: %w", err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, certFile), cert, 0o600); err != nil {
		return nil, fmt.Errorf("writing a TLS certificate: %w", err)
	}
	private = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	if err := os.WriteFile(filepath.Join(dir, keyFile), private, 0o600); err != nil {
		return nil, fmt.Errorf("writing a TLS key: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cert)
	return roots, nil
}

// Each kind of credential that exchanges can ask for is configured once, under
// the name of the kind.
const (
	kindJWT     = "jwt"
	kindDataKey = api.KindDataKey
)

// configText needs the broker's URL and address, that of the operators' listener,
// Redis' with the number of a database, and the issuers'.
const configText = `url: %[1]s
listen: %[2]s
tls: {cert: ../` + certFile + `, key: ../` + keyFile + `}
admin_listen: %[3]s
redis: {url: "redis://%[4]s/%[5]d"}
root: {software: {file: root.pem}}
issuers:
  - {name: lab, preset: github, url: "%[6]s", insecure_http: true}
  - name: functions
    preset: generic
    url: "%[7]s"
    insecure_http: true
    replay: reuse
    claims: {project: {type: int, kind: immutable}}
    project_id: project
credentials:
  - {name: ` + kindJWT + `, kind: jwt, audience: "https://registry.example.com", max_ttl: 1h}
  - {name: ` + kindDataKey + `, kind: data-key, max_ttl: 1h}
policies: policies
audit: {file: audit.jsonl}
`

// policyText grants for an hour, so that no lease ends while the clock runs.
const policyText = `policy: bench
description: the jobs that the benchmark plays
issuer: lab
match:
  repository_id: "456"
  repository_owner_id: "123"
  ref: refs/heads/main
  environment: production
  event_name: [push, workflow_dispatch]
names: {repository: acme/shop}
when: claims.run_attempt == "1"
grant:
  - {credential: ` + kindJWT + `, ttl: 1h}
  - {credential: ` + kindDataKey + `, ttl: 1h}
---
policy: storm
description: the functions of a storm
issuer: functions
match: {project: [1, 2]}
grant:
  - {credential: ` + kindJWT + `, ttl: 1h}
  - {credential: ` + kindDataKey + `, ttl: 1h}
`

// writeConfig writes the broker's configuration and its policy into its folder.
func (s *system) writeConfig(b *brevetd) error {
	if err := os.MkdirAll(filepath.Join(b.dir, "policies"), 0o700); err != nil {
		return fmt.Errorf("making the policies' folder: %w", err)
	}
	text := fmt.Sprintf(configText, b.url, b.addr, strings.TrimPrefix(b.adminURL, "http://"), s.client.Options().Addr, b.database, s.issuer.URL, s.functions.URL)
	if err := os.WriteFile(b.config(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "policies", "bench.yaml"), []byte(policyText), 0o600); err != nil {
		return fmt.Errorf("writing the policy: %w", err)
	}
	return nil
}
