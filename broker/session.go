package broker

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/issuers"
	"github.com/brevet-dev/brevet/issuers/presets"
	"github.com/brevet-dev/brevet/policies"
)

// A State is where a lease is in its life:
//
//	pending → active → revoking → revoked | expired | stuck
type State string

// The states of a lease.
const (
	Pending  State = "pending"  // written before its credential is minted
	Active   State = "active"   // the credential exists
	Revoking State = "revoking" // being ended; tried again until it succeeds or is stuck
	Revoked  State = "revoked"  // ended before its time
	Expired  State = "expired"  // ended by its time
	Stuck    State = "stuck"    // could not be ended at its target: an operator must look
	Unknown  State = "unknown"  // its record in the store is gone, or is garbage
)

// Live reports whether a credential may exist under a lease in this state.
func (s State) Live() bool { return s == Pending || s == Active || s == Revoking || s == Stuck }

// A Session is the parent of the leases that one exchange issued.
type Session struct {
	ID            string
	RequestID     string // of the exchange
	Who           Who
	KeyThumbprint string // RFC 7638 thumbprint of the DPoP key; "" for a bearer session
	Epoch         string // kid of the key that signed its token
	IssuedAt      time.Time
	Expires       time.Time   // no lease of it goes beyond
	Ended         bool        // revoked or replaced
	Policies      string      // digest of the policy set that granted its leases
	Leases        []*Lease    // in the order asked for
	Context       api.Context // of the data keys it asks for
	Quotas        []*Quota    // that it counts against; known during the exchange only
	Record        []byte      // what of all this never changes: see EncodeRecord
}

// A Lease is one credential with its end.
type Lease struct {
	ID           string
	SessionID    string
	Credential   string // its name in the configuration
	Kind         string
	Policy       string // name of the policy that granted it
	PolicyDigest string // of that document
	State        State
	TTL          time.Duration // of the grant or as asked for; a renewal adds it again
	IssuedAt     time.Time
	Expires      time.Time        // the credential ends by then; whole seconds
	MaxExpires   time.Time        // no renewal goes beyond
	Scope        policies.Scope   // with what it ends, if nothing ended it before
	DeadMan      time.Duration    // it ends when it hears no heartbeat for that long; 0: it needs none
	OnLeak       policies.OnLeak  // what is done when one of its values is found in the job's output
	Beat         time.Time        // it ends by then unless it hears a heartbeat; zero: it needs none, or is pending
	KeyUse       *policies.KeyUse // of a data key: what its grant allows
	NoKey        bool             // of a data key: no new one is wanted; known during the exchange only
	DataKey      string           // the id of the data key that was made; known during the exchange only
	NotMinted    bool             // its target made nothing, for certain; known during the exchange only
	Handle       api.Secret
	Attempts     int    // failed revocations so far
	Why          string // why it is being ended; "" while it is not
	Order        string // id of the operator's order that ended it; "" if none did

	// Renewing is until when a renewal that had begun before the lease was ended
	// may still make its credential anew; zero if none had: see [Broker.finish].
	Renewing time.Time

	// Unsure says that the lease was ended while it was pending, so that its
	// credential may exist and nobody may know its handle. Whoever ends a
	// pending lease sets it: the scripts, when another does than the broker
	// that is minting; [Broker.abandon], when that broker gives up itself. Such
	// a lease stays on record until the credential must have ended by itself:
	// see [Broker.finish].
	Unsure bool
}

// Why a lease is ended.
const (
	WhyExpired   = "expired"   // its time has come
	WhyLapsed    = "lapsed"    // pending too long: the broker that made it died, or gave up
	WhyReplaced  = "replaced"  // the exchange was repeated because its answer got lost
	WhyOrdered   = "ordered"   // by an operator: see [Order]
	WhySilent    = "silent"    // it heard no heartbeat for as long as its grant allows
	WhyRun       = "run"       // a job of its run ended what is of scope run
	WhyLeaked    = "leaked"    // a value of it, or of another lease of its session, was in the job's output
	whyRevoked   = "revoked"   // by its owner
	whyAbandoned = "abandoned" // a step of its exchange failed
	whyWithdrawn = "withdrawn" // no policy grants it any more
	whyMissing   = "missing"   // its credential is not at its target
	whyOrphan    = "orphan"    // of a credential: no lease of it lives
)

// Revocable reports whether the credential can be ended at its target.
func (l *Lease) Revocable() bool { return !l.Handle.IsZero() }

// OfRun reports whether l ends with its run, and not with its job.
func (l *Lease) OfRun() bool { return l.Scope == policies.ScopeRun }

// Renewable reports whether a renewal could move the end of l.
func (l *Lease) Renewable() bool { return l.MaxExpires.After(l.Expires) }

// Who is what a session keeps of an identity: enough to decide and mint again
// at renewal, and nothing secret.
type Who struct {
	Issuer   string           `json:"issuer"`
	URL      string           `json:"iss"`
	Subject  string           `json:"sub"`
	Claims   map[string]any   `json:"claims,omitempty"`
	Workload issuers.Workload `json:"workload"`

	encoded json.RawMessage // of all the above; nil: not yet
}

// whoIs encodes, once, what an exchange writes three times: into the session
// and into two lines of the audit log.
func whoIs(id *issuers.Identity) (Who, error) {
	w := Who{Issuer: id.Issuer, URL: id.URL, Subject: id.Subject, Claims: id.Claims, Workload: id.Workload}
	var err error
	w.encoded, err = json.Marshal(w)
	if err != nil {
		return Who{}, fmt.Errorf("encoding the identity: %w", err)
	}
	return w, nil
}

// WithoutClaims returns w without its claims, for where there is no room.
func (w Who) WithoutClaims() Who {
	w.Claims, w.encoded = nil, nil
	return w
}

// MarshalJSON implements [json.Marshaler].
func (w Who) MarshalJSON() ([]byte, error) {
	if w.encoded != nil {
		return w.encoded, nil
	}
	type plain Who // without this method
	return json.Marshal(plain(w))
}

// A TokenUse is what the replay barrier must know of the subject token and of
// the way it was shown.
type TokenUse struct {
	Issuer   string // iss: the name in the configuration may change
	ReplayID string // unique within the issuer
	Mode     presets.Replay
	Expires  time.Time // the mark is kept until then, and skew
	ProofID  string    // of the DPoP proof; "" without one
	RetryKey string    // names the logical exchange; may be ""
}

// Shards is the number of hash tags that leases are spread over. All keys of
// one session carry the same tag, so that one script may change them together
// on a Redis Cluster; 64 keeps a dozen cluster nodes evenly loaded, and a sweep
// over all shards is one pipeline.
const Shards = 64

// Shard returns where the leases of a use of a token live: it follows from the
// token alone, so that every use of it meets the same replay mark.
func (u TokenUse) Shard() int {
	sum := sha256.Sum256([]byte(u.Issuer + "\x00" + u.ReplayID))
	return int(sum[0]) % Shards
}

// idBits of randomness make an id unguessable.
const idBits = 160

var idEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newID returns an id such as "l17-mfrgg…": its kind ('s' session, 'l' lease),
// its shard, and idBits random bits in base32. It is safe in URLs, in Redis
// keys and as an AWS role session name.
func newID(kind byte, shard int) string {
	var b [idBits / 8]byte
	rand.Read(b[:]) // never fails: crypto/rand.Read, Go 1.24
	return string(kind) + strconv.Itoa(shard) + "-" + idEncoding.EncodeToString(b[:])
}

// ShardOf returns the shard of an id that a stranger gave. kind is 's' or 'l'.
// It refuses every spelling but the one that the broker makes.
func ShardOf(kind byte, id string) (int, error) {
	head, tail, ok := strings.Cut(id, "-")
	if !ok || len(id) > 64 || len(head) < 2 || head[0] != kind {
		return 0, fmt.Errorf("%w: not an id of ours", ErrNotFound)
	}
	shard, err := strconv.Atoi(head[1:])
	if err != nil || shard < 0 || shard >= Shards || strconv.Itoa(shard) != head[1:] {
		return 0, fmt.Errorf("%w: not an id of ours", ErrNotFound)
	}
	raw, err := idEncoding.DecodeString(tail)
	if err != nil || len(raw) != idBits/8 {
		return 0, fmt.Errorf("%w: not an id of ours", ErrNotFound)
	}
	return shard, nil
}
