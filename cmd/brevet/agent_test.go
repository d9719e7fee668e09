package main

import (
	"net"
	"os"

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
