package audit_test

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/brevet-dev/brevet/broker/audit"
)

func BenchmarkRecord(b *testing.B) {
	plain := func(f audit.File) audit.File { return f }
	slow := func(f audit.File) audit.File { return slowDisk{f} }
	b.Run("callers=1", func(b *testing.B) { benchmark(b, 1, plain) })
	b.Run("callers=64", func(b *testing.B) { benchmark(b, 64, plain) })
	b.Run("callers=64/sync=5ms", func(b *testing.B) { benchmark(b, 64, slow) })
}

func benchmark(b *testing.B, callers int, disk func(audit.File) audit.File) {
	l := open(b, filepath.Join(b.TempDir(), "audit.jsonl"))
	l.WrapFile(disk)
	defer closeLog(b, l)
	left := make(chan struct{}, b.N)
	for range b.N {
		left <- struct{}{}
	}
	close(left)
	b.ReportAllocs()
	b.ResetTimer()
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range left {
				record(b, l, "0123456789abcdef")
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// A slowDisk takes 5 ms more for a sync, as a busy network disk does.
type slowDisk struct{ audit.File }

func (d slowDisk) Sync() error {
	time.Sleep(5 * time.Millisecond) // the disk, not the test
	return d.File.Sync()
}
