package main

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// awsLease is a lease of "cloud", of kind aws-role.
func awsLease() api.Lease {
	l := runnertest.Lease("cloud", "AWS_SECRET_ACCESS_KEY", "")
	l.Kind = "aws-role"
	l.Values = map[string]api.Secret{
		"access_key_id": api.NewSecret("AKIA" + runnertest.Canary), "secret_access_key": api.NewSecret("secret-" + runnertest.Canary),
		"session_token": api.NewSecret("session-" + runnertest.Canary), "region": api.NewSecret("eu-west-1"),
	}
	l.Env, l.Sensitive = map[string]string{"AWS_SECRET_ACCESS_KEY": "secret_access_key"}, []string{"access_key_id", "secret_access_key", "session_token"}
	return l
}

// abandoned leaves a socket behind, as a killed agent does: "abandoned PATH".
func abandoned() {
	l, err := net.Listen("unix", os.Args[1])
	if err != nil {
		panic(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
}

// FuzzRoutes: what is accepted names a credential for each host, once.
func FuzzRoutes(f *testing.F) {
	f.Add("a.example.com=b, c.example.com:5000/d/e=<token>@f\ng=h@i@j")
	f.Add("=,a=,=b,a/=b,a//b=c,https://a=b")
	f.Fuzz(func(t *testing.T, text string) {
		rs, err := parseRoutes("BREVET_GIT", text, "")
		if err != nil && rs != nil {
			t.Errorf("%q: routes and %v", text, err)
		}
		for _, r := range rs {
			if r.host == "" || r.credential == "" || strings.ContainsAny(r.credential, "@ ,\n") {
				t.Errorf("%q: %+v", text, r)
			}
			if got, ok := rs.find(r.host, r.path+"/more"); !ok || got != r {
				t.Errorf("%q: below %s/%s is %+v", text, r.host, r.path, got)
			}
		}
	})
}

// FuzzAttributes: what is read is a line of what was sent.
func FuzzAttributes(f *testing.F) {
	f.Add("capability[]=authtype\nprotocol=https\nhost=a\n\nhost=b\n")
	f.Add("host\n")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := readAttributes(strings.NewReader(text))
		if err != nil && a != nil {
			t.Errorf("%q: attributes and %v", text, err)
		}
		for name, values := range a {
			for _, v := range values {
				if strings.Contains(v, "\n") || !slices.Contains(strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n"), name+"="+v) && !strings.Contains(text, "\r") {
					t.Errorf("%q: %q = %q", text, name, v)
				}
			}
		}
	})
}
