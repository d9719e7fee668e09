package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/lease"
)

// A radius is what an order would end.
type radius struct {
	Selector     string             `json:"selector"`
	Leases       int                `json:"leases"`
	Sessions     int                `json:"sessions"`
	Revoking     int                `json:"revoking"` // besides: being revoked already
	Stuck        int                `json:"stuck"`    // besides: a revocation leaves them alone
	Irrevocable  int                `json:"irrevocable"`
	LastEnd      time.Time          `json:"irrevocable_until,omitzero"` // when the last of these ends
	Credentials  []*credentialCount `json:"credentials"`
	Repositories []*repositoryCount `json:"repositories"`

	revoking     []string // ids
	sessions     map[string]bool
	credentials  map[string]*credentialCount
	repositories map[[2]string]*repositoryCount
}

type credentialCount struct {
	Credential string `json:"credential"`
	Leases     int    `json:"leases"`
	Revocable  int    `json:"revocable"`
}

type repositoryCount struct {
	Issuer     string `json:"issuer"`
	ID         string `json:"repository_id"`
	Repository string `json:"repository"`
	Leases     int    `json:"leases"`
}

func newRadius(sel broker.Selector) *radius {
	return &radius{
		Selector: sel.String(), Credentials: []*credentialCount{}, Repositories: []*repositoryCount{},
		sessions: map[string]bool{}, credentials: map[string]*credentialCount{}, repositories: map[[2]string]*repositoryCount{},
	}
}

func (r *radius) add(f lease.Found) {
	switch f.Lease.State {
	case broker.Revoking:
		r.revoking = append(r.revoking, f.Lease.ID)
		r.Revoking++
		return
	case broker.Stuck:
		r.Stuck++
		return
	}
	r.Leases++
	r.sessions[f.Lease.SessionID] = true
	r.Sessions = len(r.sessions)
	c := r.credentials[f.Lease.Credential]
	if c == nil {
		c = &credentialCount{Credential: f.Lease.Credential}
		r.credentials[c.Credential], r.Credentials = c, append(r.Credentials, c)
	}
	c.Leases++
	if f.Revocable {
		c.Revocable++
	} else {
		r.Irrevocable++
		if f.Lease.Expires.After(r.LastEnd) {
			r.LastEnd = f.Lease.Expires.UTC()
		}
	}
	r.addRepository(f.Session)
}

func (r *radius) addRepository(s *broker.Session) {
	at := repositoryCount{Repository: "unknown"}
	if s != nil {
		w := s.Who.Workload
		at = repositoryCount{Issuer: s.Who.Issuer, ID: w.ProjectID, Repository: cmp.Or(w.Project, w.ProjectID, s.Who.Subject)}
	}
	key := [2]string{at.Issuer, cmp.Or(at.ID, at.Repository)}
	if r.repositories[key] == nil {
		r.repositories[key], r.Repositories = &at, append(r.Repositories, &at)
	}
	r.repositories[key].Leases++
}

// maxShown bounds the lines about repositories: the largest are shown.
const maxShown = 20

func (r *radius) show(w io.Writer) error {
	fmt.Fprintf(w, "%s: %s in %s\n", plain(r.Selector), counted(r.Leases, "lease"), counted(r.Sessions, "session"))
	defer r.warn(w)
	if r.Leases == 0 {
		return nil
	}
	r.sort()
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nCREDENTIAL\tLEASES\tREVOCABLE")
	for _, c := range r.Credentials {
		fmt.Fprintf(t, "%s\t%d\t%d\n", plain(c.Credential), c.Leases, c.Revocable)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(t, "\nREPOSITORY\tISSUER\tID\tLEASES")
	for _, x := range r.Repositories[:min(len(r.Repositories), maxShown)] {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\n", plain(x.Repository), plain(x.Issuer), plain(x.ID), x.Leases)
	}
	if more := len(r.Repositories) - maxShown; more > 0 {
		fmt.Fprintf(t, "and %d more\n", more)
	}
	return t.Flush()
}

func (r *radius) sort() {
	slices.SortFunc(r.Credentials, func(a, b *credentialCount) int {
		return cmp.Or(cmp.Compare(b.Leases, a.Leases), cmp.Compare(a.Credential, b.Credential))
	})
	slices.SortFunc(r.Repositories, func(a, b *repositoryCount) int {
		return cmp.Or(cmp.Compare(b.Leases, a.Leases), cmp.Compare(a.Issuer, b.Issuer), cmp.Compare(a.Repository, b.Repository))
	})
}

// warn tells what an order does not reach.
func (r *radius) warn(w io.Writer) {
	if r.Irrevocable > 0 {
		fmt.Fprintf(w, "\nnot revocable at a target: %s; what jobs hold of them works until %s, and is not renewed\n",
			counted(r.Irrevocable, "credential"), r.LastEnd.Format(time.RFC3339))
	}
	if r.Revoking > 0 {
		fmt.Fprintf(w, "\nbeing revoked already: %s\n", counted(r.Revoking, "lease"))
	}
	if r.Stuck > 0 {
		fmt.Fprintf(w, "\nstuck: %s; brevetd leases retry tries again\n", counted(r.Stuck, "lease"))
	}
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
