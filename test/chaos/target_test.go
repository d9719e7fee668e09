package chaos

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker"
	"github.com/brevet-dev/brevet/broker/api"
)

// A target is a server on which credentials live, each under the id of its
// lease. Nothing ends there by itself: what lives was not revoked.
type target struct {
	url    string
	client *http.Client

	mu     sync.Mutex
	live   map[string]bool
	minted map[string]int // how often each was made anew
}

func newTarget(t *testing.T) *target {
	g := &target{live: map[string]bool{}, minted: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /credentials/{name}", g.put)
	mux.HandleFunc("DELETE /credentials/{name}", g.delete)
	mux.HandleFunc("GET /credentials", g.list)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	g.url, g.client = server.URL+"/credentials", server.Client()
	server.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	return g
}

func (g *target) put(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if name := r.PathValue("name"); !g.live[name] {
		g.live[name] = true
		g.minted[name]++
	}
}

func (g *target) delete(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.live[r.PathValue("name")] {
		w.WriteHeader(http.StatusNotFound)
	}
	delete(g.live, r.PathValue("name"))
}

func (g *target) list(w http.ResponseWriter, _ *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name := range g.live {
		fmt.Fprintln(w, name)
	}
}

func (g *target) do(ctx context.Context, method, path string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, method, g.url+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := g.client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		err = fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	return string(body), err
}

// names lists what lives.
func (g *target) names(ctx context.Context) ([]string, error) {
	body, err := g.do(ctx, http.MethodGet, "")
	return strings.Fields(body), err
}

// history returns how often each credential was made.
func (g *target) history() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.minted)
}

// Mint implements [broker.Minter].
func (g *target) Mint(ctx context.Context, _ *broker.Session, l *broker.Lease) (*broker.Credential, error) {
	_, err := g.do(ctx, http.MethodPut, "/"+l.ID)
	return &broker.Credential{
		Values: map[string]api.Secret{"password": api.NewSecret("of " + l.ID)}, Sensitive: []string{"password"},
		Expires: l.Expires.Truncate(time.Second), Handle: api.NewSecret(l.ID),
	}, err
}

// Revoke implements [broker.Minter].
func (g *target) Revoke(ctx context.Context, handle api.Secret) error {
	_, err := g.do(ctx, http.MethodDelete, "/"+handle.Reveal())
	return err
}
