package main

import (
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner"
)

// summarize shows on the run's page, where there is one, what a command had since
// then. revoked is what the revocation came to.
func (p *program) summarize(leases []api.Lease, since time.Time, revoked error) {
	if err := runner.Summarize(p.env, leases, time.Since(since), revoked != nil); err != nil {
		p.report("warning", err.Error())
	}
}
