package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
	"github.com/brevet-dev/brevet/test/servers"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"brevet": main, pluginName: main, dockerName: main, gitName: main, "lean": lean, "family": family, "deaf": deaf, "outlived": outlived, "orphaned": orphaned,
		"onterminal": onTerminal, "abandoned": abandoned,
	})
}

// family is a command that starts a child, has a signal sent to brevet when
// both are ready for it, and tells what they receive. A signal that came twice
// would be told twice, since a second one is sent between asking and leaving.
func family() {
	got := make(chan os.Signal, 4)
	signal.Notify(got, syscall.SIGTERM, syscall.SIGHUP)
	if len(os.Args) > 1 {
		fmt.Println("child: ready")
		tell("child", got)
		return
	}
	child := exec.Command(os.Args[0], "child")
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		panic(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan() // it is ready
	kill(syscall.SIGTERM)
	fmt.Println("parent:", <-got)
	lines.Scan() // it has the signal, too
	fmt.Println(lines.Text())
	kill(syscall.SIGHUP)
	tell("parent", got)
	for lines.Scan() {
		fmt.Println(lines.Text()) // nothing, unless a signal came twice
	}
	if err := child.Wait(); err != nil {
		panic(err)
	}
	os.Exit(9)
}

// tell prints signals until SIGHUP comes.
func tell(who string, got <-chan os.Signal) {
	for s := range got {
		if s == syscall.SIGHUP {
			return
		}
		fmt.Println(who+":", s)
	}
}

func kill(s syscall.Signal) {
	if err := syscall.Kill(os.Getppid(), s); err != nil {
		panic(err)
	}
}

// deaf runs a command whose stdout nobody reads, and ends with its status.
func deaf() {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	r.Close()
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		panic(err)
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		os.Exit(128 + int(status.Signal()))
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// outlived starts a command, "outlived FIFO command args...", that must open
// FIFO for writing, kills it when it has, and waits until the last process that
// still writes there is gone.
func outlived() {
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	fifo, err := os.Open(os.Args[1]) // waits for the writer
	if err == nil {
		err = cmd.Process.Kill()
	}
	if err == nil {
		_, err = io.Copy(io.Discard, fifo)
	}
	if err != nil {
		panic(err)
	}
	fmt.Println("nothing is left")
}

// orphaned runs a command in a shell, kills the shell alone when the command has
// printed its first line, and prints the rest that the command and all before
// it print until they end.
func orphaned() {
	cmd := exec.Command("sh", append([]string{"-c", `"$@"; echo shell goes on`, "sh"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		panic(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		panic(err)
	}
	for lines.Scan() {
		fmt.Println(lines.Text())
	}
}

// TestScripts runs the real program against a broker that each script has for
// itself: BROKER is its URL, and the job is one of GitLab's until the script
// says otherwise.
func TestScripts(t *testing.T) {
	tools, err := filepath.Abs("../../.tools/bin") // age, from test/tools.sh
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			memory, err := os.MkdirTemp("/dev/shm", "brevet-test-")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(memory) })
			e.Setenv("XDG_RUNTIME_DIR", memory)
			broker := runnertest.NewBroker(leases()...)
			broker.GrantKeys(keyGrants()...)
			e.Defer(broker.Close)
			e.Values["broker"] = broker
			e.Setenv("BROKER", broker.URL)
			e.Setenv("BREVET_BROKER", broker.URL)
			e.Setenv("BREVET_ID_TOKEN", runnertest.Token("gitlab"))
			e.Setenv("PATH", e.Getenv("PATH")+string(os.PathListSeparator)+tools)
			e.Setenv("CANARY", runnertest.Canary)
			e.Setenv("FREE", servers.FreeAddr(t))
			e.Setenv("KEY", base64.StdEncoding.EncodeToString([]byte(runnertest.Canary))[:14]) // how data keys begin
			e.Setenv("REQUEST", runnertest.Request)
			writeBundles(t, e)
			return os.WriteFile(filepath.Join(e.WorkDir, "token"), []byte(runnertest.Token("file")+"\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"broker": configure, "counts": counts, "status": status, "flip": flip, "mint": mint, "mintenv": mintEnv, "leaks": leaks,
		},
	})
}

func keyGrants() []runnertest.KeyGrant {
	all := []string{"generate", "unwrap", "rewrap"}
	return []runnertest.KeyGrant{
		{Credential: "artifacts", Allow: all},
		{Credential: "others", Allow: all},
		{Credential: "writeonly", Allow: []string{"generate"}},
		{Credential: "readonly", Allow: []string{"unwrap"}},
		{Credential: "once", Allow: all, MaxUses: 1},
		{Credential: "tests", Allow: all, Context: map[string]string{"for": "tests"}},
		{Credential: "scratch", Allow: all, Shred: true},
	}
}

func leases() []api.Lease {
	pin := runnertest.Lease("pin", "PIN", "4711")
	odd := runnertest.Lease("odd", "ODD", "it's\nnot plain "+runnertest.Canary)
	odd.Values["user"], odd.Env["ODD_USER"] = api.NewSecret("o d d"), "user"
	forRun := runnertest.Lease("shared", "SHARED_TOKEN", "shared-"+runnertest.Canary)
	forRun.Scope = api.ScopeRun
	watched := runnertest.Lease("watched", "WATCHED_TOKEN", "watched-"+runnertest.Canary)
	watched.Heartbeat = time.Second
	careful := runnertest.Lease("careful", "CAREFUL_TOKEN", "careful-"+runnertest.Canary)
	careful.OnLeak = api.OnLeakRevoke
	hidden := runnertest.Lease("hidden", "HIDDEN_USER", "hidden-"+runnertest.Canary)
	hidden.Values["key"], hidden.Sensitive = api.NewSecret("key-"+runnertest.Canary), []string{"key", "token"}
	return []api.Lease{
		forRun, watched, careful, hidden,
		runnertest.Lease("deploy", "DEPLOY_TOKEN", "deploy/"+runnertest.Canary),
		runnertest.Lease("registry", "REGISTRY_TOKEN", "registry+"+runnertest.Canary),
		runnertest.Lease("clash", "DEPLOY_TOKEN", "clash-"+runnertest.Canary),
		runnertest.Lease("shell", "A;B", "shell-"+runnertest.Canary),
		runnertest.Lease("preload", "LD_PRELOAD", "preload-"+runnertest.Canary),
		pin, odd, awsLease(),
	}
}

// configure changes the script's broker: "broker busy|garbage|command|huge|clear|
// redirect|interrupt|fail-revoke|stop", and those with arguments.
func configure(ts *testscript.TestScript, _ bool, args []string) {
	b := ts.Value("broker").(*runnertest.Broker)
	write := func(text string) {
		b.Answer(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
	}
	switch args[0] {
	case "busy":
		b.Busy(2)
	case "garbage":
		write("<html>" + runnertest.Canary + "\x1b[31m\n::error::")
	case "command": // one of GitHub's runner
		b.Answer(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"error": "server_error", "error_description": "##[set-output name=leases]pwned"}`)
		})
	case "huge":
		write(strings.Repeat(" "+runnertest.Canary, 1<<20))
	case "clear":
		write(`{"access_token": "` + runnertest.Canary + `", "token_type": "DPoP", "leases": []}`)
	case "redirect":
		b.Answer(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		})
	case "interrupt": // brevet, whose process id is in the file pid
		b.Before(func(r *http.Request) { interrupt(ts, r) })
	case "fail-revoke":
		b.FailRevocations()
	case "withdraw": // a credential, "broker withdraw NAME": its keys may be made, and not unwrapped
		b.GrantKeys(runnertest.KeyGrant{Credential: args[1], Allow: []string{"generate"}})
	case "busy-keys":
		b.BusyKeys(2)
	case "garbage-keys":
		b.AnswerKeys(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"key_id": "`+runnertest.Canary+`"}`) })
	case "beat": // "broker beat N FILE": make FILE when N heartbeats have come
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		b.OnHeartbeat(func(got int) {
			if got == n {
				ts.Check(os.WriteFile(ts.MkAbs(args[2]), nil, 0o600))
			}
		})
	case "fail-beat": // "broker fail-beat N"
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		b.FailHeartbeats(n)
	case "end-on-beat": // "broker end-on-beat": all sessions end after the first heartbeat
		b.OnHeartbeat(func(int) { go b.EndAll() })
	case "restore":
		b.Answer(nil)
	case "clock": // "broker clock D": it is D ahead of this machine, and refuses proofs
		d, err := time.ParseDuration(args[1])
		ts.Check(err)
		b.Answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(d).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error": "invalid_dpop_proof"}`)
		})
	case "terms": // "broker terms CREDENTIAL TTL TIMES [keeps]"
		ttl, err := time.ParseDuration(args[2])
		ts.Check(err)
		times, err := strconv.Atoi(args[3])
		ts.Check(err)
		b.SetTerms(args[1], runnertest.Terms{TTL: ttl, Times: times, Keeps: len(args) > 4})
	case "renewed": // "broker renewed N FILE": make FILE when N more renewals were asked for
		left, err := strconv.Atoi(args[1])
		ts.Check(err)
		b.OnRenewal(func(int) *api.Error {
			if left--; left == 0 {
				ts.Check(os.WriteFile(ts.MkAbs(args[2]), nil, 0o600))
			}
			return nil
		})
	case "refuse-renewal": // "broker refuse-renewal CODE [N]": that many times, or always
		refuseRenewals(ts, b, args[1:])
	case "of-run": // "broker of-run N": of N sessions what is of scope run lives
		if got := fmt.Sprint(b.OfRun()); got != args[1] {
			ts.Fatalf("of %s sessions leases of scope run live, want %s", got, args[1])
		}
	case "fail-leaks":
		b.FailLeaks(1000)
	case "leaks": // "broker leaks TEXT": that was reported, as credential output encoding count lines, and nothing else
		var got []string
		for _, l := range b.Leaks() {
			got = append(got, fmt.Sprint(strings.TrimPrefix(l.LeaseID, "lease-"), " ", l.Output, " ", l.Encoding, " ", l.Count, " ", l.Lines))
		}
		slices.Sort(got)
		if text := strings.Join(got, ", "); text != args[1] {
			ts.Fatalf("reported: %s, want %s", text, args[1])
		}
	case "stop":
		b.Close()
	default:
		ts.Fatalf("broker: no %s", args[0])
	}
}

func refuseRenewals(ts *testscript.TestScript, b *runnertest.Broker, args []string) {
	left := -1
	if len(args) > 1 {
		var err error
		left, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	b.OnRenewal(func(int) *api.Error {
		if left == 0 {
			return nil
		}
		left--
		return &api.Error{Code: args[0]}
	})
}

// interrupt sends SIGTERM to brevet and gives it time to die of it.
func interrupt(ts *testscript.TestScript, r *http.Request) {
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile("pid")))
	if err != nil || syscall.Kill(pid, syscall.SIGTERM) != nil {
		return // the script then sees an exchange that was not interrupted
	}
	select {
	case <-r.Context().Done():
	case <-time.After(300 * time.Millisecond):
	}
}

// counts checks what the broker saw: "counts SESSIONS LIVE [TRIES]".
func counts(ts *testscript.TestScript, _ bool, args []string) {
	sessions, live, tries := ts.Value("broker").(*runnertest.Broker).Counts()
	got := []string{fmt.Sprint(sessions), fmt.Sprint(live), fmt.Sprint(tries)}
	if want := strings.Join(args, " "); strings.Join(got[:len(args)], " ") != want {
		ts.Fatalf("broker counts sessions, live, tries %v, want %s", got, want)
	}
}

// flip changes one bit of a byte: "flip FROM N TO" for the byte at N, from the end
// if N is negative, or "flip FROM TEXT TO" for the first byte of TEXT.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	data := []byte(ts.ReadFile(args[0]))
	at, err := strconv.Atoi(args[1])
	if err != nil {
		at = bytes.Index(data, []byte(args[1]))
	} else if at < 0 {
		at += len(data)
	}
	if at < 0 || at >= len(data) {
		ts.Fatalf("flip: no %s in %s", args[1], args[0])
	}
	data[at] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), data, 0o600))
}

// lean runs a command that may not need more than some MiB of memory: "lean MIB
// command args...".
func lean() {
	limit, err := strconv.ParseInt(os.Args[1], 10, 64)
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		panic(err)
	}
	if used := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss >> 10; used > limit { // Linux counts KiB
		fmt.Fprintf(os.Stderr, "it needed %d MiB\n", used)
		os.Exit(1)
	}
}

// status runs a program and checks its exit status: "status N program args...".
// Its output is shown as the output of a shell.
func status(ts *testscript.TestScript, _ bool, args []string) {
	const script = `want=$1; shift; "$@"; got=$?; [ $got = $want ] || { echo "exit status $got, want $want" >&2; exit 1; }`
	if err := ts.Exec("sh", append([]string{"-c", script, "sh"}, args...)...); err != nil {
		ts.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
}

func TestHelp(t *testing.T) {
	for _, topic := range []string{"", "exec", "get", "revoke", "mask", "scan", "encrypt", "decrypt", "verify-trust", "claims", "agent", "helpers", "extension", "exit-codes"} {
		var stdout, stderr bytes.Buffer
		args := strings.Fields("help " + topic)
		if got := run(context.Background(), args, nil, &stdout, &stderr, nil); got != 0 || stderr.Len() > 0 {
			t.Errorf("brevet help %s = %d, %s", topic, got, &stderr)
		}
		golden := filepath.Join("testdata", strings.Join(args, "-")+".golden")
		for line := range strings.Lines(stdout.String()) {
			if len(line) > 81 { // with its end
				t.Errorf("brevet help %s has a line of more than 80 columns: %s", topic, line)
			}
		}
		if *update {
			if err := os.WriteFile(golden, stdout.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(stdout.Bytes(), want) {
			t.Errorf("brevet help %s prints\n%s\nwant\n%s", topic, &stdout, want)
		}
	}
}
