package lease_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/lease"
	"github.com/brevet-dev/brevet/issuers/presets"
)

// watchedSession reserves and commits a session with two leases.
func watchedSession(t *testing.T, s *lease.Store, token string) (*broker.Session, broker.Watched) {
	t.Helper()
	u := use(presets.Bind, token)
	x := session(u, "key", 2)
	mustReserve(t, s, x, u)
	mustCommit(t, s, x)
	return x, broker.Watched{SessionID: x.ID, LeaseIDs: []string{x.Leases[0].ID, x.Leases[1].ID}}
}

// What was ended, whoever did it, is seen of each session, in their order; what
// is not there, or is garbage, has ended.
func TestSessionStates(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, client *redis.Client) {
		var sessions []*broker.Session
		var watched []broker.Watched
		for i := range 5 {
			x, w := watchedSession(t, s, fmt.Sprint("t", i))
			sessions, watched = append(sessions, x), append(watched, w)
		}
		if _, err := s.End(t.Context(), sessions[1].ID, watched[1].LeaseIDs[1:], broker.WhyOrdered); err != nil {
			t.Fatal(err)
		}
		if _, err := s.End(t.Context(), sessions[2].ID, nil, broker.WhyRun); err != nil {
			t.Fatal(err)
		}
		if err := client.Del(t.Context(), keyOf(t, client, "s:"+sessions[3].ID), keyOf(t, client, "l:"+watched[3].LeaseIDs[0])).Err(); err != nil {
			t.Fatal(err)
		}
		garbage := keyOf(t, client, "l:"+watched[4].LeaseIDs[0])
		if err := errors.Join(client.Del(t.Context(), garbage).Err(), client.Set(t.Context(), garbage, "garbage", 0).Err()); err != nil {
			t.Fatal(err)
		}
		active := broker.LeaseState{State: broker.Active}
		want := []broker.SessionState{
			{Leases: []broker.LeaseState{active, active}},
			{Leases: []broker.LeaseState{active, {State: broker.Revoking, Why: broker.WhyOrdered}}},
			{Ended: true, Leases: []broker.LeaseState{{State: broker.Revoking, Why: broker.WhyRun}, {State: broker.Revoking, Why: broker.WhyRun}}},
			{Ended: true, Leases: []broker.LeaseState{{State: broker.Unknown}, active}},
			{Leases: []broker.LeaseState{{State: broker.Unknown}, active}},
		}
		got, err := s.SessionStates(t.Context(), watched)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("SessionStates = %+v, %v; want %+v", got, err, want)
		}
	})
}

// keyOf returns the whole name of the key that ends so.
func keyOf(t *testing.T, client *redis.Client, end string) string {
	t.Helper()
	keys, err := client.Keys(t.Context(), "brevet:*"+end).Result()
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys that end in %s: %q, %v", end, keys, err)
	}
	return keys[0]
}

// More sessions than one pipeline takes come in their order, and a Redis that is
// gone is an error, not the end of them.
func TestSessionStatesOfMany(t *testing.T) {
	onBoth(t, func(t *testing.T, s *lease.Store, _ *redis.Client) {
		_, one := watchedSession(t, s, "one")
		over, other := watchedSession(t, s, "other")
		if _, err := s.End(t.Context(), over.ID, nil, broker.WhyOrdered); err != nil {
			t.Fatal(err)
		}
		var watched []broker.Watched
		for range 300 {
			watched = append(watched, one, other)
		}
		got, err := s.SessionStates(t.Context(), watched)
		if err != nil || len(got) != 600 {
			t.Fatalf("SessionStates = %d of 600, %v", len(got), err)
		}
		for i, state := range got {
			if state.Ended != (i%2 == 1) || len(state.Leases) != 2 {
				t.Fatalf("the state of session %d is %+v", i, state)
			}
		}
		ctx, cancel := context.WithDeadline(t.Context(), time.Now())
		defer cancel()
		if got, err := s.SessionStates(ctx, watched); !errors.Is(err, broker.ErrUnavailable) || got != nil {
			t.Errorf("SessionStates without Redis = %d states, %v; want ErrUnavailable", len(got), err)
		}
	})
}
