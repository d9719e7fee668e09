package policies_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/policies"
)

func TestKeyUseOfAGrant(t *testing.T) {
	const head = "policy: a\nissuer: github\nmatch: {repository_id: \"456\", ref: refs/heads/main, event_name: push}\ngrant:\n- "
	for _, tt := range []struct {
		name, grant string
		want        policies.KeyUse
	}{
		{"nothing said", `{credential: artifacts, ttl: 1m}`, policies.KeyUse{Allow: []policies.Operation{policies.Generate}}},
		{
			"all said", `{credential: artifacts, ttl: 1m, allow: [unwrap, rewrap], max_uses: 3, max_age: 24h, context: {env: prod}}`,
			policies.KeyUse{Allow: []policies.Operation{policies.Rewrap, policies.Unwrap}, MaxUses: 3, MaxAge: 24 * time.Hour, Context: map[string]string{"env": "prod"}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := mustLoad(t, head+tt.grant).Decide(github(nil), "artifacts")
			if err != nil {
				t.Fatal(err)
			}
			got := d.Grant.KeyUse
			if got == nil || !slices.Equal(got.Allow, tt.want.Allow) || got.MaxUses != tt.want.MaxUses || got.MaxAge != tt.want.MaxAge || len(got.Context) != len(tt.want.Context) {
				t.Errorf("KeyUse = %+v, want %+v", got, tt.want)
			}
		})
	}
	d, err := mustLoad(t, head+`{credential: other, ttl: 1m}`).Decide(github(nil), "other")
	if err != nil || d.Grant.KeyUse != nil {
		t.Errorf("KeyUse of what is no data key = %+v, %v", d.Grant.KeyUse, err)
	}
}

func TestPermits(t *testing.T) {
	use := &policies.KeyUse{
		Allow: []policies.Operation{policies.Unwrap}, MaxAge: time.Hour, Context: map[string]string{"env": "prod", "app": "shop"},
	}
	whole := map[string]string{"env": "prod", "app": "shop", "more": "x"}
	for _, tt := range []struct {
		name    string
		use     *policies.KeyUse
		op      policies.Operation
		age     time.Duration
		context map[string]string
		ok      bool
	}{
		{"allowed", use, policies.Unwrap, time.Hour, whole, true},
		{"as old as it is", &policies.KeyUse{Allow: use.Allow}, policies.Unwrap, 1000 * time.Hour, nil, true},
		{"another operation", use, policies.Rewrap, 0, whole, false},
		{"too old", use, policies.Unwrap, time.Hour + 1, whole, false},
		{"without an entry", use, policies.Unwrap, 0, map[string]string{"env": "prod"}, false},
		{"with another value", use, policies.Unwrap, 0, map[string]string{"env": "test", "app": "shop"}, false},
		{"no context", use, policies.Unwrap, 0, nil, false},
		{"no grant", nil, policies.Unwrap, 0, whole, false},
		{"an empty value is not no value", &policies.KeyUse{Allow: use.Allow, Context: map[string]string{"a": ""}}, policies.Unwrap, 0, nil, false},
	} {
		err := tt.use.Permits(tt.op, tt.age, tt.context)
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, policies.ErrOperation) {
			t.Errorf("%s: Permits = %v", tt.name, err)
		}
	}
}
