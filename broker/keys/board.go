package keys

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/brevet-dev/brevet/broker/keys/trust"
)

// A Board is where brokers publish the certificates of their epochs, so that a
// session token outlives a restart of the broker that signed it, and one broker
// accepts another's. All on it is public, and nothing on it is believed: each
// certificate proves itself against the root. Who can write to it can hide a
// certificate, and that is all.
type Board interface {
	// Publish puts up a certificate (DER) under its key's kid until a time.
	Publish(ctx context.Context, kid string, cert []byte, until time.Time) error

	// All returns what is on the board now, at most [MaxBoard] certificates,
	// those that stay up longest.
	All(ctx context.Context) (map[string][]byte, error)
}

// MaxBoard bounds how many certificates are read from a board, in case someone
// fills it. A broker has five up, and two more for each restart within a day.
const MaxBoard = 1000

// A RedisBoard is a [Board] in one sorted set: each member a kid, a space and a
// certificate, its score the Unix time in milliseconds when it ends.
type RedisBoard struct {
	redis         redis.UniversalClient
	read, publish *redis.Script
}

const boardKey = "brevet:epochs"

// readBoard leaves what is too long in Redis, so that nobody can make the
// broker read gigabytes.
const readBoard = `
local out = {}
if redis.call('TYPE', KEYS[1])['ok'] ~= 'zset' then return out end
for _, m in ipairs(redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', '(' .. ARGV[1], 'LIMIT', 0, tonumber(ARGV[2]))) do
  if #m <= tonumber(ARGV[3]) then out[#out + 1] = m end
end
return out`

// publishBoard replaces what is in the board's place and is none.
const publishBoard = `
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3])
return 1`

// NewRedisBoard returns the board that all brokers on one Redis share.
func NewRedisBoard(client redis.UniversalClient) *RedisBoard {
	return &RedisBoard{client, redis.NewScript(readBoard), redis.NewScript(publishBoard)}
}

// Publish implements [Board]. It takes down what has ended.
func (b *RedisBoard) Publish(ctx context.Context, kid string, cert []byte, until time.Time) error {
	err := b.publish.Run(ctx, b.redis, []string{boardKey}, millis(time.Now()), millis(until), kid+" "+string(cert)).Err()
	if err != nil {
		return fmt.Errorf("publishing an epoch in redis: %w", err)
	}
	return nil
}

// All implements [Board].
func (b *RedisBoard) All(ctx context.Context) (map[string][]byte, error) {
	members, err := b.read.Run(ctx, b.redis, []string{boardKey}, millis(time.Now()), MaxBoard, trust.MaxCertificate).StringSlice()
	if err != nil {
		return nil, fmt.Errorf("reading epochs from redis: %w", err)
	}
	all := make(map[string][]byte, len(members))
	for _, m := range members {
		if kid, cert, ok := strings.Cut(m, " "); ok {
			all[kid] = []byte(cert)
		}
	}
	return all, nil
}

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
