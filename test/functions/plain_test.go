package functions

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/test/cloud"
)

// TestPlain runs a function that is a server of net/http, where platforms run such.
func TestPlain(t *testing.T) {
	t.Parallel()
	file := build(t, "test/functions/testdata/plain")
	for name, tt := range map[string]struct {
		preset, audience, match string
		start                   func(t *testing.T, w *world) *process
	}{
		"Azure Functions, custom handler": {"entra", "api://brevet", `{oid: 00000002-4b5a-4c6d-8e7f-0a1b2c3d4e5f}`, func(t *testing.T, w *world) *process {
			app := cloud.AzureApp(t, w.mint)
			return start(t, file, "FUNCTIONS_CUSTOMHANDLER_PORT", "BROKER_URL", w.URL, "BROKER_AUDIENCE", "api://brevet",
				"IDENTITY_ENDPOINT", app.URL+"/msi/token", "IDENTITY_HEADER", cloud.AzureHeader, "WEBSITE_INSTANCE_ID", "0f3a")
		}},
		"Cloud Run": {"google", "", account, func(t *testing.T, w *world) *process {
			return start(t, file, "PORT", "BROKER_URL", w.URL, "GCE_METADATA_HOST", cloud.Google(t, w.mint).Host, "K_SERVICE", "shop")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.preset, tt.audience, tt.match, "4s")
			p := tt.start(t, w)
			cold := p.first()
			p.freeze(cold.ends.Add(time.Second))
			if ids := p.many(100); len(ids) != 1 || ids[0] == cold.id {
				t.Errorf("after the freeze %v were used, want one that is new", ids)
			}
			thawed := p.ask()
			p.stop()
			w.gone(t, cold, thawed)
			if n := w.tokens.Load(); n != 1 {
				t.Errorf("the platform made %d tokens, want one for all", n)
			}
			if strings.Contains(w.Told(), "eyJ") || strings.Contains(p.out.String(), "eyJ") {
				t.Error("a token was logged")
			}
		})
	}
}

// TestRevokedWhileFrozen: an operator revokes while the process stands still, and what
// was revoked is not used when it goes on, whether it asks or listens.
func TestRevokedWhileFrozen(t *testing.T) {
	t.Parallel()
	file := build(t, "test/functions/testdata/plain")
	for _, listen := range []string{"", "true"} {
		t.Run("listen="+listen, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "google", "", account, "5m")
			p := start(t, file, "PORT", "BROKER_URL", w.URL, "GCE_METADATA_HOST", cloud.Google(t, w.mint).Host, "MAX_STALE", "2s", "LISTEN", listen)
			cold := p.first()
			p.signal(syscall.SIGSTOP)
			w.Revoke("database", 0)
			p.freeze(time.Now().Add(2 * time.Second))
			if ids := p.many(100); len(ids) != 1 || ids[0] == cold.id {
				t.Errorf("after the freeze %v were used, and %s was revoked", ids, cold.id)
			}
			if n := w.exchanges(); n != 2 {
				t.Errorf("%d exchanges, want one more for 100 calls", n)
			}
		})
	}
}
