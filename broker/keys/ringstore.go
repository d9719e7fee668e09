package keys

import (
	"context"
	"fmt"
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

	// swapRing replaces the ring if it still is the one that was seen, or the new
	// one already: the client repeats it when its answer was lost.
	swapRing = `
local head = redis.call('HGET', KEYS[1], 'head') or ''
if head ~= ARGV[1] and head ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'head', ARGV[2], 'ring', ARGV[3])
return 1`

	// getRing leaves what is too long in Redis.
	getRing = `
if redis.call('HSTRLEN', KEYS[1], 'ring') > tonumber(ARGV[1]) then return redis.error_reply('the ring is too long') end
return redis.call('HGET', KEYS[1], 'ring') or ''`

	// promiseKEK moves the time later, never earlier.
	promiseKEK = `
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) < tonumber(ARGV[2]) then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1`
)

// A ringStore is the ring in Redis. Nothing in it is believed: see
// [parseEdition].
type ringStore struct {
	redis                                redis.UniversalClient
	swapScript, getScript, promiseScript *redis.Script
}

func newRingStore(client redis.UniversalClient) ringStore {
	return ringStore{client, redis.NewScript(swapRing), redis.NewScript(getRing), redis.NewScript(promiseKEK)}
}

// head returns the name of the edition in Redis, or "".
func (s ringStore) head(ctx context.Context) (string, error) {
	head, err := s.redis.HGet(ctx, ringKey, "head").Result()
	if err != nil && err != redis.Nil {
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
}

// add notes that a KEK is needed until a time.
func (p *promises) add(ctx context.Context, id string, until time.Time) error {
	until = until.Truncate(promiseGrain).Add(promiseGrain)
	p.mu.Lock()
	enough := !p.until[id].Before(until)
	p.mu.Unlock()
	if enough {
		return nil
	}
	if err := p.store.promiseScript.Run(ctx, p.store.redis, []string{neededKey}, id, until.Unix()).Err(); err != nil {
		return noRedis("writing until when a KEK is needed", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until[id].Before(until) {
		p.until[id] = until
	}
	return nil
}

// forget makes each be written again: Redis lost something.
func (p *promises) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.until)
}

// needed returns what Redis has, in seconds since 1970.
func (s ringStore) needed(ctx context.Context) (map[string]int64, error) {
	all, err := s.redis.HGetAll(ctx, neededKey).Result()
	if err != nil {
		return nil, noRedis("reading until when KEKs are needed", err)
	}
	out := make(map[string]int64, len(all))
	for id, seconds := range all {
		if out[id], err = strconv.ParseInt(seconds, 10, 64); err != nil {
			return nil, fmt.Errorf("what redis has under %s is not brevet's", neededKey)
		}
	}
	return out, nil
}
