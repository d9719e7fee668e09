package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "rewrite the golden files in the scripts")

// Scripts run the real program, in this test's binary.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"brevetd": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", UpdateScripts: *update, RequireExplicitExec: true, RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"lease": scriptLease, "stick": scriptStick},
		Setup: func(env *testscript.Env) error {
			server := miniredis.NewMiniRedis() // a script's own
			if err := server.Start(); err != nil {
				return err
			}
			env.Defer(server.Close)
			env.Setenv("BREVET_TEST_REDIS", "redis://"+server.Addr()+"/0")
			return nil
		},
	})
}
