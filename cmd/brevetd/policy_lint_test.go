package main

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

func TestLintProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		tell := lintProgress(&out, 100)
		for done := 1; done <= 5; done++ {
			tell(done)
			time.Sleep(600 * time.Millisecond) // instant: the bubble's clock
		}
		const want = "lint: 3 of 100 policies\nlint: 5 of 100 policies\n"
		if got := out.String(); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	})
}
