package main

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestExtensionName(t *testing.T) {
	for name, want := range map[string][]string{
		"/opt/extensions/brevet-extension": {"extension"},
		"brevet-extension":                 {"extension"},
		"/usr/bin/brevet":                  {},
	} {
		if got := arguments([]string{name}); !slices.Equal(got, want) {
			t.Errorf("arguments(%s) = %v, want %v", name, got, want)
		}
	}
}

// TestExtensionConfiguration: a doubt about the function's environment refuses.
func TestExtensionConfiguration(t *testing.T) {
	for name, test := range map[string]struct {
		env    []string
		args   []string
		status int
		want   string
	}{
		"not on Lambda":    {nil, nil, exitConfig, "AWS_LAMBDA_RUNTIME_API is not set"},
		"ttl":              {[]string{"BREVET_TTL=soon"}, nil, exitUsage, "BREVET_TTL: the ttl must be a duration above 0, such as 15m\nbrevet: hint: see brevet help extension"},
		"port":             {[]string{"BREVET_PORT=http"}, nil, exitUsage, "BREVET_PORT must be a port"},
		"port 0":           {[]string{"BREVET_PORT=0"}, nil, exitUsage, "BREVET_PORT must be a port"},
		"max stale":        {[]string{"BREVET_MAX_STALE=0s"}, nil, exitUsage, "BREVET_MAX_STALE must be"},
		"files":            {[]string{"BREVET_FILES=1"}, nil, exitUsage, "BREVET_FILES must be true or false"},
		"start without":    {[]string{"BREVET_START_WITHOUT=yes"}, nil, exitUsage, "BREVET_START_WITHOUT must be true or false"},
		"arguments":        {nil, []string{"a", "b"}, exitUsage, "one argument at most"},
		"nobody at Lambda": {[]string{"BREVET_BROKER=https://broker.example.com", "BREVET_CREDENTIALS=database"}, nil, exitUnavailable, "registering the extension"},
	} {
		if name != "not on Lambda" {
			test.env = append(test.env, "AWS_LAMBDA_RUNTIME_API=127.0.0.1:1")
		}
		var stdout, stderr bytes.Buffer
		t.Setenv("TMPDIR", t.TempDir())
		got := run(context.Background(), append([]string{"extension"}, test.args...), nil, &stdout, &stderr, test.env)
		if got != test.status || !strings.Contains(stderr.String(), test.want) {
			t.Errorf("%s: exit status %d, want %d; it says %s", name, got, test.status, &stderr)
		}
	}
}

func TestExtensionOptions(t *testing.T) {
	p := &program{env: []string{
		"AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001", "BREVET_BROKER=https://broker.example.com", "BREVET_CREDENTIALS=database, queue", "BREVET_TTL=15m",
		"BREVET_PORT=2800", "BREVET_FILES=true", "BREVET_START_WITHOUT=true", "BREVET_MAX_STALE=never", "BREVET_AUDIENCE=shop", "BREVET_CA_FILE=ca.pem",
	}}
	o, err := p.extensionOptions([]string{"wrapper"})
	f := o.Function
	if err != nil || o.Name != "wrapper" || o.Runtime != "127.0.0.1:9001" || o.Broker != "https://broker.example.com" || !slices.Equal(o.Credentials, []string{"database", "queue"}) ||
		o.Port != 2800 || !o.Files || !f.StartWithout || f.MaxStale >= 0 || f.TTL != 15*time.Minute || f.Audience != "shop" || f.CAFile != "ca.pem" {
		t.Errorf("options %+v, %v", o, err)
	}
	p.env = []string{"AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001"}
	if o, err = p.extensionOptions(nil); err != nil || o.Name != "brevet-extension" || o.Port != 2774 || o.Files || o.Function.StartWithout || o.Function.MaxStale != 0 {
		t.Errorf("options without variables %+v, %v", o, err)
	}
}
