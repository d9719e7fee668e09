package issuers_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/lab"
)

// Here is what went wrong in systems like this one, as far as tokens and
// issuers are concerned, each tried again and refused for its own reason. What
// policies have to refuse is tried in theirs.

// AWS roles, GitLab's "openbao" and others took tokens whose audience a whole
// tenant shares, or one that only began or ended right.
func TestLessonSharedAudience(t *testing.T) {
	for _, preset := range []string{"github", "gitlab"} {
		p := start(t, lab.Options{Preset: preset})
		set := newSet(t, p.config(preset))
		for _, aud := range []any{
			"https://github.com/acme", p.URL, "sts.amazonaws.com", "openbao", "vault", "api://AzureADTokenExchange",
			audience + ".evil.example", "https://evil.example/?" + audience, "x" + audience, audience + "/tenant", strings.ToUpper(audience),
			[]string{audience, "https://other.example.com"}, "", nil,
		} {
			check(t, set, p.mint(t, map[string]any{"aud": aud}), issuers.ReasonAudience)
		}
	}
}

// Eclipse PIA compared the issuer by its beginning (CVE-2026-14336), Fulcio by a
// pattern: https://ci.example.org@evil.host passed, and was connected to.
func TestLessonIssuerLooksAlike(t *testing.T) {
	p := start(t, lab.Options{})
	host, asked := listen(t)
	set := newSet(t, p.config("github"))
	for _, iss := range []string{
		p.URL + "@" + host, p.URL + "." + host, p.URL + "/../@" + host, p.URL + `\@` + host, p.URL + "#@" + host, p.URL + "?@" + host, p.URL + "%2f@" + host,
		p.URL + "/", p.URL + "//", p.URL + "/x", strings.ToUpper(p.URL), p.URL + ":443", "http://" + host, "https://" + host, "http://user:pw@" + host,
		strings.Replace(p.URL, "127.0.0.1", "127.0.0.1.nip.io", 1), strings.Replace(p.URL, "127.0.0.1", "2130706433", 1), strings.Replace(p.URL, "127.0.0.1", "１２７.0.0.1", 1),
		"https://token.actions.githubusercontent.com", "https://token.actions.githubusercontent.com/acme", "kubernetes/serviceaccount", "gitlab.com",
	} {
		check(t, set, p.mint(t, map[string]any{"iss": iss}), issuers.ReasonUnknownIssuer)
	}
	if asked.Load() != 0 || p.hits.Load() != 0 {
		t.Errorf("%d connections to the look-alike, %d to the issuer, for tokens of neither", asked.Load(), p.hits.Load())
	}
}

// listen counts the connections to an address that nobody should connect to.
func listen(t *testing.T) (host string, asked *atomic.Int64) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked = &atomic.Int64{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return listener.Addr().String(), asked
}

// octo-sts (CVE-2025-52477) fetched discovery for what a token called its
// issuer, and put the answer into its log. Ours has neither the address nor
// the answer, also when it is the configured issuer that redirects us or names
// an inner host.
func TestLessonServerSideRequests(t *testing.T) {
	inner, asked := listen(t)
	for name, replace := range map[string]func(p *platform) *replacement{
		"discovery redirects": func(*platform) *replacement { return &replacement{discoveryPath, redirectTo("http://" + inner)} },
		"the keys redirect":   func(*platform) *replacement { return &replacement{jwksPath, redirectTo("http://" + inner)} },
		"jwks_uri names it": func(p *platform) *replacement {
			return &replacement{discoveryPath, body(fmt.Sprintf(`{"issuer":"%s","jwks_uri":"http://%s/"}`, p.URL, inner))}
		},
		"jwks_uri names it with the issuer's host as a user": func(p *platform) *replacement {
			return &replacement{discoveryPath, body(fmt.Sprintf(`{"issuer":"%s","jwks_uri":"%s@%s/"}`, p.URL, p.URL, inner))}
		},
		"jwks_uri twice, once in capitals": func(p *platform) *replacement {
			return &replacement{discoveryPath, body(fmt.Sprintf(`{"issuer":"%s","jwks_uri":"%s/.well-known/jwks","JWKS_URI":"http://%s/"}`, p.URL, p.URL, inner))}
		},
		"the answer is an inner page": func(*platform) *replacement {
			return &replacement{discoveryPath, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusForbidden)
				io.WriteString(w, canary)
			}}
		},
		"the answer is an inner JSON": func(*platform) *replacement {
			return &replacement{discoveryPath, body(`{"AccessKeyId":"` + canary + `","issuer":"` + canary + `"}`)}
		},
		"the keys are an inner JSON": func(*platform) *replacement { return &replacement{jwksPath, body(`{"keys":"` + canary + `"}`)} },
	} {
		p := start(t, lab.Options{})
		p.replace.Store(replace(p))
		_, err := newSet(t, p.config("github")).Verify(t.Context(), p.mint(t, nil))
		if got := reason(t, nil, err); got != "unavailable" {
			t.Errorf("%s: %q (%v)", name, got, err)
		}
		if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: the error repeats the answer: %v", name, err)
		}
	}
	if asked.Load() != 0 {
		t.Errorf("%d connections to the inner host", asked.Load())
	}
}

func redirectTo(url string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		http.Redirect(w, r, url, http.StatusTemporaryRedirect)
	}
}

// A name that resolves to an inner address, at once or the second time, gains
// nothing: the address is checked that is connected to.
func TestLessonNameOfAnInnerHost(t *testing.T) {
	p, config := secure(t)
	port := p.URL[strings.LastIndexByte(p.URL, ':'):]
	for _, private := range []bool{false, true} {
		config.URL, config.AllowPrivateCIDRs, config.AllowPrivate = "https://localhost"+port, nil, private
		raw := p.mint(t, map[string]any{"iss": config.URL})
		_, err := newSet(t, config).Verify(t.Context(), raw)
		if err == nil || !strings.Contains(err.Error(), "is not public") {
			t.Errorf("Verify with allow_private %v = %v, want the address refused", private, err)
		}
	}
}

// Fulcio (GHSA-f83f-xpx7-ffpw) ran out of memory over a malformed token, OpenBao
// over JSON of great depth. Ours costs no more than it is long.
func TestLessonCostlyText(t *testing.T) {
	f := newForge(t)
	set := newSet(t, f.config())
	huge := strings.Repeat(".", 64<<20)
	deep := func(open, end string) string {
		return f.sign(t, "ES256", `{"x":`+strings.Repeat(open, 4000)+"1"+strings.Repeat(end, 4000)+"}", f.claims(nil))
	}
	for name, h := range map[string]hostile{
		"64 MiB of dots":      {raw: huge, want: issuers.ReasonTooLarge},
		"64 MiB of base64":    {raw: strings.Repeat("A", 64<<20), want: issuers.ReasonTooLarge},
		"16 KiB of dots":      {raw: huge[:16<<10], want: issuers.ReasonMalformed},
		"4000 lists":          {raw: deep("[", "]"), want: issuers.ReasonMalformed},
		"1300 objects":        {raw: deep(`{"":`, "}")[:16<<10], want: issuers.ReasonMalformed},
		"1200 members":        {raw: f.sign(t, "ES256", "{"+manyMembers(1200)[1:]+"}", f.claims(nil)), want: issuers.ReasonMalformed},
		"a text of 11 KiB":    {raw: f.sign(t, "ES256", f.header("ES256", map[string]any{"kid": strings.Repeat("k", 11<<10)}), f.claims(nil)), want: issuers.ReasonHeader},
		"a number of 11 KiB":  {raw: f.token(t, "ES256", nil, map[string]any{"exp": json.RawMessage(strings.Repeat("9", 11<<10))}), want: issuers.ReasonClaimType},
		"escapes of 11 KiB":   {raw: f.token(t, "ES256", nil, map[string]any{"sub": strings.Repeat("\x01", 1800)}), want: issuers.ReasonClaimValue},
		"a list of 5000 ones": {raw: f.token(t, "ES256", nil, map[string]any{"aud": make([]int, 5000)}), want: issuers.ReasonAudience},
	} {
		h.name = name
		h.check(t, set)
		if allocated := allocatedBy(func() { set.Verify(t.Context(), h.raw) }); allocated > 1<<20 {
			t.Errorf("%s: %d bytes for one token", name, allocated)
		}
	}
}

// allocatedBy returns the bytes that f allocates, the least of a few runs.
func allocatedBy(f func()) uint64 {
	least := uint64(math.MaxUint64)
	var before, after runtime.MemStats
	for range 5 {
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

// A token that says nothing of what a reader looks for was taken for one that
// says the right thing (Fulcio's email_verified, Vault's bound claims).
func TestLessonAbsentClaim(t *testing.T) {
	for _, preset := range []string{"github", "gitlab"} {
		p := start(t, lab.Options{Preset: preset})
		set := newSet(t, p.config(preset))
		known, _ := set.Preset(preset)
		for name, claim := range known.Claims {
			if claim.Optional {
				continue
			}
			check(t, set, p.mint(t, map[string]any{name: nil}), issuers.ReasonClaimMissing)
			check(t, set, p.mint(t, map[string]any{name: json.RawMessage("null")}), issuers.ReasonClaimType)
		}
	}
}

// Until 2025 the merge request of a fork, run in the target project, had
// GitLab's claims of the target.
func TestLessonForkInTheTargetProject(t *testing.T) {
	p := start(t, lab.Options{Preset: "gitlab"})
	set := newSet(t, p.config("gitlab"))
	check(t, set, p.mint(t, map[string]any{"project_id": "666", "project_path": "mallory/shop", "pipeline_source": "merge_request_event"}), issuers.ReasonClaimConflict)
}

// Names are given to others, and sub is put together from them, in a form that
// a job may choose: no fact is read from it.
func TestLessonSubjectIsNoFact(t *testing.T) {
	p := start(t, lab.Options{})
	set := newSet(t, p.config("github"))
	for _, sub := range []string{
		"repo:victim/shop:environment:production", "repo:acme@123/shop@999:ref:refs/heads/main", "repo:acme-1/shop-2:ref:refs/heads/main",
		"repository_owner:victim", "repo:acme/shop:pull_request:environment:production",
	} {
		id, err := set.Verify(t.Context(), p.mint(t, map[string]any{"sub": sub}))
		if err != nil || id.Workload.ProjectID != "456" || id.Workload.OwnerID != "123" || id.Workload.Project != "acme/shop" {
			t.Errorf("sub %q: %+v, %v: it changed the workload", sub, id, err)
		}
	}
}

// Vault had "1" and 1 for the same, and took true for "true".
func TestLessonTypesAreNotCast(t *testing.T) {
	p, q := start(t, lab.Options{Preset: "github"}), start(t, lab.Options{Preset: "gitlab"})
	set := newSet(t, p.config("github"), q.config("gitlab"))
	for _, value := range []any{456, 456.0, json.RawMessage("4.56e2"), true, []string{"456"}, map[string]any{"id": "456"}} {
		check(t, set, p.mint(t, map[string]any{"repository_id": value}), issuers.ReasonClaimType)
		check(t, set, q.mint(t, map[string]any{"project_id": value}), issuers.ReasonClaimType)
	}
	check(t, set, q.mint(t, map[string]any{"ref_protected": true}), issuers.ReasonClaimType)
	check(t, set, q.mint(t, map[string]any{"runner_id": "1001"}), issuers.ReasonClaimType)
}

// A kid is looked up among the keys of the token's own issuer: whoever is one
// issuer cannot speak as another, not even with its own key's kid.
func TestLessonKeyOfAnotherIssuer(t *testing.T) {
	p, q := start(t, lab.Options{}), start(t, lab.Options{Preset: "gitlab"})
	set := newSet(t, p.config("github"), q.config("gitlab"))
	check(t, set, p.mint(t, nil), "")
	check(t, set, q.mint(t, nil), "")
	check(t, set, q.mint(t, map[string]any{"iss": p.URL}), issuers.ReasonUnknownKey)
	kid := keyID(t, strings.Split(p.mint(t, nil), ".")[0])
	check(t, set, q.forge(t, lab.Forgery{Claims: map[string]any{"iss": p.URL}, Header: map[string]any{"kid": kid}}), issuers.ReasonSignature)
}

// OpenBao lets tokens live 150 s longer than they say.
func TestLessonNoGraceForExpiry(t *testing.T) {
	p := start(t, lab.Options{})
	synctest.Test(t, func(t *testing.T) {
		set, raw := newSet(t, p.config("github")), p.mint(t, map[string]any{"exp": time.Now().Unix() + 10})
		time.Sleep(10*time.Second - time.Nanosecond)
		check(t, set, raw, "")
		time.Sleep(time.Nanosecond)
		check(t, set, raw, issuers.ReasonExpired)
	})
}

// Caches fail open: octo-sts took an allow-list that is gone for one that
// allows everything. Keys that are gone allow nothing, and a withdrawn key goes
// with the refresh.
func TestLessonNothingLeftAllowsNothing(t *testing.T) {
	for name, answer := range map[string]string{
		"no keys": `{"keys":[]}`, "null": `{"keys":null}`, "no member": `{}`, "only odd keys": `{"keys":[{"kty":"oct","kid":"x","k":"AAAA"}]}`, "an error as JSON": `{"error":"not found"}`,
	} {
		p := start(t, lab.Options{})
		synctest.Test(t, func(t *testing.T) {
			set := newSet(t, p.config("github"))
			running(t, set)
			time.Sleep(time.Second)
			check(t, set, p.mint(t, nil), "")
			p.replace.Store(&replacement{jwksPath, body(answer)})
			time.Sleep(2 * time.Hour)
			check(t, set, p.mint(t, nil), "unavailable")
			if t.Failed() {
				t.Log("the keys were", name)
			}
		})
	}
}

// Kubernetes' legacy tokens never expire, and extended ones live a year.
func TestLessonTokensForEver(t *testing.T) {
	f := newForge(t)
	set, year := newSet(t, f.config()), time.Now().AddDate(1, 0, 0).Unix()
	check(t, set, f.token(t, "RS256", nil, map[string]any{"exp": nil}), issuers.ReasonClaimMissing)
	check(t, set, f.token(t, "RS256", nil, map[string]any{"exp": year}), issuers.ReasonLifetime)
	check(t, set, f.token(t, "RS256", nil, map[string]any{"exp": nil, "iat": nil, "nbf": nil}), issuers.ReasonClaimMissing)
	check(t, set, f.token(t, "RS256", nil, map[string]any{"iss": "kubernetes/serviceaccount"}), issuers.ReasonUnknownIssuer)
}

// OpenBao (CVE-2026-46405) went on with the identity that came with an error.
// reason checks for every token of these tests that there is one or the other;
// here the token is good in all but its last rule.
func TestLessonErrorMeansNobody(t *testing.T) {
	p := start(t, lab.Options{Preset: "gitlab"})
	id, err := newSet(t, p.config("gitlab")).Verify(t.Context(), p.mint(t, map[string]any{"project_id": "666"}))
	if id != nil || err == nil {
		t.Errorf("Verify = %v, %v", id, err)
	}
}

// go-oidc's errors quote the token, hvac had it in URLs: ours is in no error.
func TestLessonNoTokenInErrors(t *testing.T) {
	f := newForge(t)
	set := newSet(t, f.config())
	for _, raw := range []string{
		f.token(t, "ES256", nil, map[string]any{"aud": canary, "iss": canary}), f.token(t, "ES256", nil, map[string]any{"aud": canary}), f.token(t, "ES256", nil, map[string]any{"sub": canary + "\n"}),
		f.token(t, "ES256", map[string]any{"kid": canary}, nil), f.token(t, "ES256", map[string]any{"alg": canary}, nil), f.token(t, "ES256", map[string]any{"typ": canary}, nil),
		f.token(t, "ES256", map[string]any{canary: 1}, map[string]any{"exp": canary}), f.token(t, "ES256", nil, map[string]any{"nonce": []string{canary}}), canary, canary + "." + canary + "." + canary,
		f.sign(t, "ES256", `{"`+canary+`"`, f.claims(nil)), f.sign(t, "ES256", f.header("ES256", nil), `{"`+canary+`":1,"`+canary+`":2}`),
	} {
		if _, err := set.Verify(t.Context(), raw); err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), canary) {
			t.Errorf("Verify = %#v: want an error without text of the token", err)
		}
	}
}
