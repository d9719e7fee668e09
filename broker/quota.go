package broker

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/brevet-dev/brevet/policies"
)

// ErrQuota is a limit of a policy that is reached; the error is a [*QuotaError].
var ErrQuota = errors.New("a limit of the policy is reached")

// A QuotaError says which limit is reached.
type QuotaError struct {
	Quota *Quota
	Live  bool          // leases live at once; false: exchanges within a minute
	After time.Duration // when it is of use to try again
}

func (e *QuotaError) Error() string {
	what, most := "exchanges a minute", e.Quota.PerMinute
	if e.Live {
		what, most = "leases that live", e.Quota.MostLive
	}
	return fmt.Sprintf("%v: %d %s of %s", ErrQuota, most, what, e.Quota.Of)
}

func (*QuotaError) Is(target error) bool { return target == ErrQuota }

// A Quota counts what an exchange asks for against a limit.
type Quota struct {
	Name      string // of what is counted; unique, and a stranger's in part
	Of        string // what is counted, for operators
	MostLive  int    // 0: no limit
	PerMinute int    // 0: no limit
	Leases    []*Lease
}

// count adds a lease to the quotas that its grant counts against.
func (s *Session) count(l *Lease, g policies.Grant) {
	s.quota("w\x00"+g.Policy+"\x00"+g.Credential+"\x00"+s.Who.counted(), "a workload's "+g.Credential+" by policy "+g.Policy, g.OfWorkload, l)
	s.quota("p\x00"+g.Policy, "policy "+g.Policy, g.OfPolicy, l)
}

// counted returns what a workload is told apart by within its issuer: its
// project, or what is next to it.
func (w *Who) counted() string { return cmp.Or(w.Workload.ProjectID, w.Workload.OwnerID, w.Subject) }

// line is the workload that w waits and listens as. Where an issuer has no ids of
// projects each sub is one: all roles of an AWS account have its owner, and one
// that floods must not take the place of the others.
func (w *Who) line() string {
	if w.Workload.ProjectID != "" {
		return w.URL + "\x00" + w.Workload.ProjectID
	}
	return w.URL + "\x00" + w.Workload.OwnerID + "\x00" + w.Subject
}

func (s *Session) quota(name, of string, limits policies.Limits, l *Lease) {
	if limits == (policies.Limits{}) {
		return
	}
	for _, q := range s.Quotas {
		if q.Name == name {
			q.Leases = append(q.Leases, l)
			return
		}
	}
	s.Quotas = append(s.Quotas, &Quota{name, of, limits.Live, limits.PerMinute, []*Lease{l}})
}
