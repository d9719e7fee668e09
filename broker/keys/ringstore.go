package keys

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker"
)

const (
	// ringKey is a hash: head, "<version> <digest>" for those who only ask whether
	// something changed, and ring, the edition.
	ringKey = "brevet:ring"

	// neededKey is a hash: until when a KEK is needed, by its id; seconds
	// since 1970.
	neededKey = "brevet:ring:needed"

	// maxHead bounds what is read of the head, in bytes: a genuine one has 92 at
	// most.
	maxHead = "128"

	// readHead is the head as all scripts see it: cut where it is too long, and
	// what there is under the key instead of a hash has none.
	readHead = `
local hash = redis.call('TYPE', KEYS[1])['ok'] == 'hash'
local head = hash and redis.call('HGET', KEYS[1], 'head') or ''
head = string.sub(head, 1, ` + maxHead + `)
`

	getHead = readHead + `return head`

	// swapRing replaces the ring, or what is in its place, if it still is the one
	// that was seen, or the new one already: the client repeats it when its answer
	// was lost.
	swapRing = readHead + `
if head ~= ARGV[1] and head ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'head', ARGV[2], 'ring', ARGV[3])
return 1`

	// getRing leaves what is too long to be genuine in Redis.
	getRing = readHead + `
if not hash or redis.call('HSTRLEN', KEYS[1], 'ring') > tonumber(ARGV[1]) then return '' end
return redis.call('HGET', KEYS[1], 'ring') or ''`

	// promiseKEK moves the time later, never earlier.
	promiseKEK = `
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local known = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) or 0
if known < tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1`

	// longestNeed bounds until when a KEK can be needed: package mint makes no
	// data key that lives for more than ten years.
	longestNeed = 11 * 365 * 24 * time.Hour
)

// A ringStore is the ring in Redis. Nothing in it is believed: see
// [parseEdition].
type ringStore struct {
	redis                                            redis.UniversalClient
	headScript, swapScript, getScript, promiseScript *redis.Script
}

func newRingStore(client redis.UniversalClient) ringStore {
	return ringStore{client, redis.NewScript(getHead), redis.NewScript(swapRing), redis.NewScript(getRing), redis.NewScript(promiseKEK)}
}

// head returns the name of the edition in Redis, or "".
func (s ringStore) head(ctx context.Context) (string, error) {
	head, err := s.headScript.Run(ctx, s.redis, []string{ringKey}).Text()
	if err != nil {
		return "", noRedis("reading the ring's head", err)
	}
	return head, nil
}

// get returns the token of the edition in Redis, or "".
func (s ringStore) get(ctx context.Context) (string, error) {
	token, err := s.getScript.Run(ctx, s.redis, []string{ringKey}, maxRing).Text()
	if err != nil {
		return "", noRedis("reading the ring", err)
	}
	return token, nil
}

// swap puts e in the place of the edition with a head, and reports whether that
// was still there.
func (s ringStore) swap(ctx context.Context, head string, e *edition) (bool, error) {
	n, err := s.swapScript.Run(ctx, s.redis, []string{ringKey}, head, e.head(), e.token).Int()
	if err != nil {
		return false, noRedis("writing the ring", err)
	}
	return n == 1, nil
}

func noRedis(what string, err error) error {
	return fmt.Errorf("%w: %s: redis: %w", broker.ErrUnavailable, what, err)
}

// promiseGrain is how coarse the times are until when a KEK is needed, so that
// one write serves all data keys of an hour.
const promiseGrain = time.Hour

// promises are what is known to stand in Redis of until when KEKs are needed.
type promises struct {
	store ringStore
	mu    sync.Mutex
	until map[string]time.Time
	kept  time.Time // when all were last written
}

// keepEvery is how often they are written again: Redis may have lost them, and
// another process may have put the ring back, so that this one does not notice.
// It is much less than settle, before which no KEK is destroyed.
const keepEvery = time.Minute

// add notes that a KEK is needed until a time.
func (p *promises) add(ctx context.Context, id string, until time.Time) error {
	until = until.Truncate(promiseGrain).Add(promiseGrain)
	p.mu.Lock()
	enough := !p.until[id].Before(until)
	p.mu.Unlock()
	if enough {
		return nil
	}
	if err := p.write(ctx, id, until); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until[id].Before(until) {
		p.until[id] = until
	}
	return nil
}

// keep writes all again that are not over.
func (p *promises) keep(ctx context.Context) error {
	p.mu.Lock()
	now := time.Now()
	maps.DeleteFunc(p.until, func(_ string, until time.Time) bool { return until.Before(now) })
	all := maps.Clone(p.until)
	p.kept = now
	p.mu.Unlock()
	for id, until := range all {
		if err := p.write(ctx, id, until); err != nil {
			return err
		}
	}
	return nil
}

func (p *promises) write(ctx context.Context, id string, until time.Time) error {
	if err := p.store.promiseScript.Run(ctx, p.store.redis, []string{neededKey}, id, until.Unix()).Err(); err != nil {
		return noRedis("writing until when a KEK is needed", err)
	}
	return nil
}

// due reports whether it is time for keep.
func (p *promises) due() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.kept) >= keepEvery
}

// needed returns what Redis has of some KEKs, in seconds since 1970. What is no
// time, or one that no broker writes, counts as the latest that there can be.
func (s ringStore) needed(ctx context.Context, keks []ringKEK) (map[string]int64, error) {
	ids := make([]string, len(keks))
	for i, k := range keks {
		ids[i] = k.ID
	}
	all, err := s.redis.HMGet(ctx, neededKey, ids...).Result()
	if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") { // that is as if all were lost
		return nil, noRedis("reading until when KEKs are needed", err)
	}
	out, latest := make(map[string]int64, len(ids)), time.Now().Add(longestNeed).Unix()
	for i, value := range all {
		if text, there := value.(string); there {
			out[ids[i]] = latest
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				out[ids[i]] = min(n, latest)
			}
		}
	}
	return out, nil
}
