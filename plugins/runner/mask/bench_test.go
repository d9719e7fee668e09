package mask_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/plugins/runner/mask"
)

// logText is about 1 MiB of what a build prints.
func logText() []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < 1<<20; i++ {
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		fmt.Fprintf(&b, "2026-11-23T15:31:%02d.%06dZ #%d [stage-1 %d/9] RUN go build -trimpath ./cmd/brevet  sha256:%x\n", i%60, i, i, i%9, sum)
		fmt.Fprintf(&b, "npm warn deprecated inflight@1.0.%d: This module is not supported, and leaks memory. Do not use it.\n", i%10)
	}
	return b.Bytes()
}

// tokens returns n secrets that look like API tokens of 40 characters.
func tokens(n int) []string {
	out := make([]string, n)
	for i := range out {
		sum := sha256.Sum256([]byte{'s', byte(i), byte(i >> 8)})
		out[i] = "tok_" + hex.EncodeToString(sum[:])[:36]
	}
	return out
}

// BenchmarkWrite reports the speed beside that of the floor, a copy of the
// bytes, which is measured in the same run; the ratio of the two says more than
// either where the machine is shared. With escapes the text has some in every
// line, so that no layer can be spared.
func BenchmarkWrite(b *testing.B) {
	escapes := []byte(" 100%25\\r\x1b[0m\n")
	for _, bm := range []struct {
		name    string
		secrets []string
		text    []byte
	}{
		{"1 secret", tokens(1), logText()},
		{"10 secrets", tokens(10), logText()},
		{"10 short secrets", short(tokens(10)), logText()},
		{"1000 secrets", tokens(1000), logText()},
		{"10 secrets, times and UUIDs", tokens(10), serverText()},
		{"1000 secrets, times and UUIDs", tokens(1000), serverText()},
		{"10 secrets, escapes", tokens(10), bytes.ReplaceAll(logText(), []byte("\n"), escapes)},
		{"1000 secrets, escapes", tokens(1000), bytes.ReplaceAll(logText(), []byte("\n"), escapes)},
		{"10 secrets, a dump", tokens(10), dumpText()},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.SetBytes(int64(len(bm.text)))
			b.ReportAllocs()
			w := newMasker(b, bm.secrets...).Writer(io.Discard)
			floor := &copier{}
			pour(b, w, bm.text) // the buffers grow once
			best, bestFloor := time.Hour, time.Hour
			for b.Loop() {
				best = min(best, pour(b, w, bm.text))
				b.StopTimer()
				bestFloor = min(bestFloor, pour(b, floor, bm.text))
				b.StartTimer()
			}
			b.ReportMetric(float64(len(bm.text))/best.Seconds()/1e6, "best-MB/s")
			b.ReportMetric(float64(best)/float64(bestFloor), "×copy")
		})
	}
}

// pour writes text to w in pieces of 32 KiB and returns how long that took.
func pour(b *testing.B, w io.Writer, text []byte) time.Duration {
	began := time.Now()
	for len(text) > 0 {
		n := min(32<<10, len(text))
		if _, err := w.Write(text[:n]); err != nil {
			b.Fatal(err)
		}
		text = text[n:]
	}
	return time.Since(began)
}

// A copier copies what is written to it.
type copier struct{ buf [32 << 10]byte }

func (c *copier) Write(p []byte) (int, error) { return copy(c.buf[:], p), nil }

// short cuts values to 8 characters.
func short(values []string) []string {
	for i, v := range values {
		values[i] = v[8:16]
	}
	return values
}

// serverText is about 1 MiB of what servers log: times and UUIDs look like dumps.
func serverText() []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < 1<<20; i++ {
		id := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		fmt.Fprintf(&b, "2026-11-23 15:31:%02d,%03d INFO  [main] c.e.shop.OrderService : order %x-%x-%x-%x-%x took %d ms\n", i%60, i%1000, id[:4], id[4:6], id[6:8], id[8:10], id[10:16], i)
		fmt.Fprintf(&b, `{"time":"2026-11-23T15:31:%02d.%03dZ","level":"info","msg":"order placed","id":"%x","took":"%dms"}`+"\n", i%60, i%1000, id[:8], i)
	}
	return b.Bytes()
}

// dumpText is about 1 MiB of hexdump -C.
func dumpText() []byte {
	var b bytes.Buffer
	for b.Len() < 1<<20 {
		b.WriteString(hex.Dump(logText()[:64<<10]))
	}
	return b.Bytes()
}

// BenchmarkNew builds the index.
func BenchmarkNew(b *testing.B) {
	pem := "-----BEGIN PRIVATE KEY-----\n"
	for i := range 26 {
		sum := sha256.Sum256([]byte{'p', byte(i)})
		pem += strings.ToUpper(hex.EncodeToString(sum[:])) + "\n"
	}
	for _, bm := range []struct {
		name   string
		values []string
	}{{"10 tokens", tokens(10)}, {"a PEM key", []string{pem + "-----END PRIVATE KEY-----\n"}}, {"1000 tokens", tokens(1000)}} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			size := 0
			for b.Loop() {
				size = mask.Size(newMasker(b, bm.values...))
			}
			b.ReportMetric(float64(size)/1024, "KiB")
		})
	}
}
