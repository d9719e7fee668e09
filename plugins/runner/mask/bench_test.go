package mask_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"

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

// tenSecrets look like API tokens of 40 characters.
func tenSecrets() []string {
	out := make([]string, 10)
	for i := range out {
		sum := sha256.Sum256([]byte{'s', byte(i)})
		out[i] = "tok_" + hex.EncodeToString(sum[:])[:36]
	}
	return out
}

// BenchmarkWrite reports the speed beside that of a bare copy; with escapes the
// text has both kinds of them in every line, so that no view can be spared.
func BenchmarkWrite(b *testing.B) {
	writers := map[string]io.Writer{
		"copy":       struct{ io.Writer }{io.Discard},
		"1 secret":   newMasker(b, tenSecrets()[:1]...).Writer(io.Discard),
		"10 secrets": newMasker(b, tenSecrets()...).Writer(io.Discard),
	}
	writers["10 secrets, escapes"] = writers["10 secrets"]
	for _, name := range []string{"copy", "1 secret", "10 secrets", "10 secrets, escapes"} {
		text := logText()
		if strings.HasSuffix(name, "escapes") {
			text = bytes.ReplaceAll(text, []byte("\n"), []byte(" 100%\\r\n"))
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			buf := make([]byte, 32<<10)
			for b.Loop() {
				if _, err := io.CopyBuffer(writers[name], struct{ io.Reader }{bytes.NewReader(text)}, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkNew builds the automaton for ten tokens, and for a PEM key.
func BenchmarkNew(b *testing.B) {
	pem := "-----BEGIN PRIVATE KEY-----\n"
	for i := range 26 {
		sum := sha256.Sum256([]byte{'p', byte(i)})
		pem += strings.ToUpper(hex.EncodeToString(sum[:])) + "\n"
	}
	for name, values := range map[string][]string{"10 tokens": tenSecrets(), "a PEM key": {pem + "-----END PRIVATE KEY-----\n"}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			size := len(strings.Join(values, ""))
			nodes := 0
			for b.Loop() {
				nodes = mask.Nodes(newMasker(b, values...))
			}
			b.ReportMetric(float64(nodes)/float64(size), "nodes/byte")
		})
	}
}
