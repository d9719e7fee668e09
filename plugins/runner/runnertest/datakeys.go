package runnertest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
)

// A KeyGrant says what every job may do with the data keys of a credential, as
// a policy's grant and the credential's configuration do.
type KeyGrant struct {
	Credential string
	Allow      []string // generate, unwrap, rewrap
	MaxUses    int      // 0: any number
	MaxAge     time.Duration
	Context    map[string]string // entries that a key's context must have
	Shred      bool
}

// GrantKeys adds or replaces the grants of data keys.
func (b *Broker) GrantKeys(grants ...KeyGrant) {
	b.set(func() {
		for _, g := range grants {
			b.grants[g.Credential] = g
		}
	})
}

// AnswerKeys makes h answer all requests about wrapped data keys.
func (b *Broker) AnswerKeys(h http.HandlerFunc) { b.set(func() { b.rawKeys = h }) }

// BusyKeys makes the next n requests about wrapped data keys end in 503.
func (b *Broker) BusyKeys(n int) { b.set(func() { b.busyKeys = n }) }

// A session is what one exchange gave.
type session struct {
	key     string // the DPoP key's coordinates
	context api.Context
	shares  map[string][]byte // credential → what a key needs that is shredded; nil value: nothing
	ended   bool
}

func (s *session) end() { s.ended, s.shares = true, nil }

// newSession reads what an exchange says about data keys. It is an error where
// none is asked for.
func (b *Broker) newSession(r *http.Request, key string) (*session, *api.Error) {
	c, err := keyContext(r)
	wish := r.PostForm.Get("data_key")
	if err != nil || wish != "" && wish != "generate" && wish != "none" {
		return nil, &api.Error{Code: api.CodeInvalidRequest, Description: "context or data_key is not one"}
	}
	isKey := func(name string) bool { _, ok := b.grants[name]; return ok }
	if (wish != "" || r.PostForm.Has("context")) && !slices.ContainsFunc(r.PostForm["audience"], isKey) {
		return nil, &api.Error{Code: api.CodeInvalidRequest, Description: "context and data_key are for credentials of kind data-key, and none was asked for"}
	}
	return &session{key: key, context: c, shares: map[string][]byte{}}, nil
}

func keyContext(r *http.Request) (api.Context, error) {
	if !r.PostForm.Has("context") {
		return api.Context{}, nil
	}
	return api.ParseContext(r.PostForm.Get("context"))
}

// lease returns what s gets of a credential.
func (b *Broker) lease(s *session, name string, r *http.Request) (*api.Lease, *api.Error) {
	if l, ok := b.leases[name]; ok {
		return &l, nil
	}
	none := &api.Error{Code: api.CodeInvalidTarget, Description: "no policy grants this"}
	g, ok := b.grants[name]
	if !ok {
		return nil, none
	}
	l := &api.Lease{
		LeaseID: fmt.Sprint("l-", name, len(b.sessions)), Credential: name, Kind: api.KindDataKey,
		ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second).UTC(),
	}
	s.shares[name] = nil
	wish := r.PostForm.Get("data_key")
	if wish == "none" || wish == "" && !slices.Contains(g.Allow, "generate") {
		return l, nil
	}
	if !g.permits("generate", 0, s.context) {
		return nil, none
	}
	b.mint(g, s, l)
	return l, nil
}

func (g KeyGrant) permits(op string, age time.Duration, c api.Context) bool {
	for name, want := range g.Context {
		if got, ok := c[name]; !ok || got != want {
			return false
		}
	}
	return slices.Contains(g.Allow, op) && (g.MaxAge == 0 || age <= g.MaxAge)
}

// A wrappedKey is what the broker remembers inside of a wrapped data key.
type wrappedKey struct {
	ID         string `json:"dek"`
	Credential string `json:"credential"`
	Session    int    `json:"session"` // whose share the key needs, from 0
	Bound      string `json:"bound"`
	Issued     int64  `json:"iat"`
	Expires    int64  `json:"exp"`
	Shred      bool   `json:"shred,omitempty"`
	half       []byte
}

// mint puts a new data key into l.
func (b *Broker) mint(g KeyGrant, s *session, l *api.Lease) {
	key := append([]byte(Canary), random(api.DataKeySize-len(Canary))...)
	now := time.Now()
	k := &wrappedKey{
		ID: "dk-" + hex.EncodeToString(random(8)), Credential: g.Credential, Session: len(b.sessions),
		Bound: digest(s.context.Canonical()), Issued: now.Unix(), Expires: now.Add(24 * time.Hour).Unix(), half: key,
	}
	if g.Shred {
		share := random(api.DataKeySize)
		k.half, k.Shred, l.Revocable, s.shares[g.Credential] = xor(key, share), true, true, share
	}
	claims, err := json.Marshal(map[string]any{
		"sub": k.ID, "credential": k.Credential, "context": s.context, "exp": k.Expires, "shred": k.Shred,
	})
	if err != nil {
		panic(err) // strings and numbers
	}
	enc := base64.RawURLEncoding
	l.Values = map[string]api.Secret{
		api.ValuePlaintext: api.NewSecret(base64.StdEncoding.EncodeToString(key)), api.ValueWrapped: api.NewSecret(b.wrap(k)),
		api.ValueKeyID: api.NewSecret(k.ID), api.ValueStatement: api.NewSecret("e30." + enc.EncodeToString(claims) + ".c2ln"),
	}
	l.Env = map[string]string{"DATA_KEY": api.ValuePlaintext, "DATA_KEY_WRAPPED": api.ValueWrapped, "DATA_KEY_ID": api.ValueKeyID}
	l.Sensitive = []string{api.ValuePlaintext}
}

// wrap returns k in five parts, of the size and look of the broker's.
func (b *Broker) wrap(k *wrappedKey) string {
	header, err := json.Marshal(k)
	if err != nil {
		panic(err) // strings and numbers
	}
	enc := base64.RawURLEncoding
	head := enc.EncodeToString(header) + "." + enc.EncodeToString(random(40))
	iv := random(12)
	sealed := b.gcm().Seal(nil, iv, k.half, []byte(head))
	return head + "." + enc.EncodeToString(iv) + "." + enc.EncodeToString(sealed[:32]) + "." + enc.EncodeToString(sealed[32:])
}

// open is the inverse of wrap; nil if s was changed.
func (b *Broker) open(s string) *wrappedKey {
	var parts [][]byte
	for part := range strings.SplitSeq(s, ".") {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || strings.ContainsAny(s, "\r\n") {
			return nil
		}
		parts = append(parts, raw)
	}
	if len(parts) != 5 || len(parts[2]) != 12 {
		return nil
	}
	head := strings.Join(strings.Split(s, ".")[:2], ".")
	half, err := b.gcm().Open(nil, parts[2], slices.Concat(parts[3], parts[4]), []byte(head))
	k := &wrappedKey{}
	if err != nil || json.Unmarshal(parts[0], k) != nil {
		return nil
	}
	k.half = half
	return k
}

func (b *Broker) gcm() cipher.AEAD {
	block, err := aes.NewCipher(b.kek)
	if err != nil {
		panic(err) // 32 bytes
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// unwrap is the endpoint of that name.
func (b *Broker) unwrap(w http.ResponseWriter, r *http.Request) {
	b.dataKey(w, r, "unwrap", func(k *wrappedKey, g KeyGrant) ([]byte, int, *api.Error) {
		key, ok := b.whole(k)
		if !ok {
			return notWrapped()
		}
		if b.uses[k.ID]++; g.MaxUses > 0 && b.uses[k.ID] > g.MaxUses {
			return nil, http.StatusForbidden, &api.Error{Code: api.CodeInsufficientScope, Description: "this data key was unwrapped as often as the policy allows"}
		}
		answer := api.DataKey{
			KeyID: k.ID, Credential: k.Credential, ExpiresAt: time.Unix(k.Expires, 0).UTC(),
			Plaintext: api.NewSecret(base64.StdEncoding.EncodeToString(key)),
		}
		return b.encode(r, answer)
	})
}

// encode seals the answer if the request says so.
func (b *Broker) encode(r *http.Request, answer api.DataKey) ([]byte, int, *api.Error) {
	if !r.PostForm.Has("seal_key") {
		return encoded(answer.Encode())
	}
	recipient, err := api.ParseSealKey(r.PostForm.Get("seal_key"))
	if err != nil {
		return encoded(nil, err)
	}
	return encoded(answer.EncodeSealed(recipient, b.sealContext(r)))
}

// sealContext is what the answer to a request with a session token is sealed for.
func (b *Broker) sealContext(r *http.Request) api.SealContext {
	return api.SealContext{URL: b.URL + r.URL.Path, Proof: r.Header.Get("DPoP"), SessionToken: api.NewSecret(bearer(r))}
}

func encoded(body []byte, err error) ([]byte, int, *api.Error) {
	if err != nil {
		return nil, http.StatusBadRequest, &api.Error{Code: api.CodeInvalidRequest, Description: err.Error()}
	}
	return body, http.StatusOK, nil
}

// rewrap is the endpoint of that name.
func (b *Broker) rewrap(w http.ResponseWriter, r *http.Request) {
	b.dataKey(w, r, "rewrap", func(k *wrappedKey, _ KeyGrant) ([]byte, int, *api.Error) {
		answer := api.DataKey{KeyID: k.ID, Credential: k.Credential, Wrapped: b.wrap(k), ExpiresAt: time.Unix(k.Expires, 0).UTC()}
		return encoded(answer.Encode())
	})
}

// whole returns the key, with its share if it has one that still exists.
func (b *Broker) whole(k *wrappedKey) ([]byte, bool) {
	if !k.Shred {
		return k.half, true
	}
	s, ok := b.sessions[sessionToken(k.Session)]
	if !ok || s.shares[k.Credential] == nil {
		return nil, false
	}
	return xor(k.half, s.shares[k.Credential]), true
}

func notWrapped() ([]byte, int, *api.Error) {
	return nil, http.StatusBadRequest, &api.Error{Code: api.CodeInvalidRequest, Description: "wrapped data key not accepted"}
}

type keyOperation func(*wrappedKey, KeyGrant) ([]byte, int, *api.Error)

// dataKey is what the requests about wrapped data keys have in common.
func (b *Broker) dataKey(w http.ResponseWriter, r *http.Request, op string, do keyOperation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rawKeys != nil {
		b.rawKeys(w, r)
		return
	}
	body, status, refused := b.doDataKey(r, op, do)
	if refused != nil {
		refuse(w, status, refused)
		return
	}
	w.Write(body) // see token
}

func (b *Broker) doDataKey(r *http.Request, op string, do keyOperation) ([]byte, int, *api.Error) {
	c, wrapped, err := keyForm(r)
	if err != nil {
		return nil, http.StatusBadRequest, &api.Error{Code: api.CodeInvalidRequest, Description: err.Error()}
	}
	s, status, refused := b.authenticate(r)
	if refused != nil {
		return nil, status, refused
	}
	if b.busyKeys > 0 {
		b.busyKeys--
		return nil, http.StatusServiceUnavailable, &api.Error{Code: api.CodeTemporarily, Description: "too much to do"}
	}
	k := b.open(wrapped)
	if k == nil || k.Bound != digest(c.Canonical()) || time.Now().Unix() >= k.Expires {
		return notWrapped()
	}
	_, leased := s.shares[k.Credential]
	g := b.grants[k.Credential]
	if !leased || !g.permits(op, time.Since(time.Unix(k.Issued, 0)), c) {
		return nil, http.StatusForbidden, &api.Error{
			Code: api.CodeInsufficientScope, Description: "no policy allows this session to do that with this data key",
		}
	}
	return do(k, g)
}

// keyForm reads the form of a request about a wrapped data key.
func keyForm(r *http.Request) (c api.Context, wrapped string, err error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" || r.URL.RawQuery != "" {
		return nil, "", errors.New("not a form in the body")
	}
	if err := r.ParseForm(); err != nil {
		return nil, "", err
	}
	for name, values := range r.PostForm {
		if len(values) != 1 {
			return nil, "", fmt.Errorf("%s is repeated", name)
		}
	}
	wrapped = r.PostForm.Get("wrapped")
	if wrapped == "" || len(wrapped) > api.MaxWrapped {
		return nil, "", fmt.Errorf("wrapped is missing, or over %d bytes", api.MaxWrapped)
	}
	c, err = keyContext(r)
	return c, wrapped, err
}

// authenticate finds the session of r's token, which must come with a proof of
// the session's key.
func (b *Broker) authenticate(r *http.Request) (*session, int, *api.Error) {
	s, ok := b.sessions[bearer(r)]
	if !ok || s.ended {
		return nil, http.StatusUnauthorized, &api.Error{Code: api.CodeInvalidToken, Description: "session token not accepted"}
	}
	key, err := b.checkProof(r)
	if err != nil {
		return nil, http.StatusBadRequest, &api.Error{Code: api.CodeInvalidDPoPProof, Description: err.Error()}
	}
	if key != s.key {
		return nil, http.StatusUnauthorized, &api.Error{Code: api.CodeInvalidToken, Description: "session token not accepted"}
	}
	return s, http.StatusOK, nil
}

// bearer returns the session token of r, or "".
func bearer(r *http.Request) string {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return ""
	}
	token, ok := strings.CutPrefix(values[0], "DPoP ")
	if !ok {
		return ""
	}
	return token
}

// sessionToken is the token of the n-th session, from 0.
func sessionToken(n int) string { return fmt.Sprint("session-", Canary, n, ".p.s") }

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func random(n int) []byte {
	out := make([]byte, n)
	rand.Read(out) // never fails: crypto/rand.Read, Go 1.24
	return out
}

func xor(a, b []byte) []byte {
	out := make([]byte, len(a))
	subtle.XORBytes(out, a, b)
	return out
}
