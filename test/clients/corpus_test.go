package clients_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
)

// corpus is what real tools print of five secrets, and what of it may be shown:
// the tests beside it decode that in every way they know.
const corpus = "plugins/runner/mask/testdata/"

// testCorpus pours all of it through the program, as a command's output and as a
// file.
func testCorpus(t *testing.T, b programs) {
	var values map[string]string
	if err := json.Unmarshal([]byte(read(t, corpus+"secrets.json")), &values); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root(t), corpus, "corpus/*.txt"))
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d files of the corpus, %v", len(files), err)
	}
	execute, filter := corpusExec(t, b, values), corpusMask(t, b, values)
	for _, file := range files {
		want := readFile(t, strings.TrimSuffix(file, ".txt")+".masked")
		for name, cmd := range map[string]*exec.Cmd{"exec": execute(file), "mask": filter(file)} {
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err != nil {
				t.Fatalf("brevet %s with %s: %v\n%s", name, filepath.Base(file), err, &stderr)
			}
			if stdout.String() != want {
				t.Errorf("brevet %s does not mask %s as the tests of the mask say", name, filepath.Base(file))
			}
			for _, value := range values {
				if strings.Contains(stdout.String()+stderr.String(), value) {
					t.Errorf("brevet %s with %s shows a value", name, filepath.Base(file))
				}
			}
		}
	}
}

// corpusExec returns a command that prints a file, with the values as its
// credentials.
func corpusExec(t *testing.T, b programs, values map[string]string) func(file string) *exec.Cmd {
	t.Helper()
	var leases []api.Lease
	for name, value := range values {
		leases = append(leases, runnertest.Lease(strings.ToLower(name), "CORPUS_"+name, value))
	}
	broker := runnertest.NewBroker(leases...)
	t.Cleanup(broker.Close)
	credentials := strings.ToLower(strings.Join(slices.Sorted(maps.Keys(values)), ","))
	env := append(cleanEnv(t, t.TempDir()), "BREVET_BROKER="+broker.URL, "BREVET_CREDENTIALS="+credentials,
		"ACTIONS_ID_TOKEN_REQUEST_URL="+broker.URL+"/github?api-version=2.0", "ACTIONS_ID_TOKEN_REQUEST_TOKEN="+runnertest.Request)
	return func(file string) *exec.Cmd {
		cmd := exec.Command(b.brevet, "exec", "--", "cat", file)
		cmd.Env = env
		return cmd
	}
}

// corpusMask returns a command that masks a file.
func corpusMask(t *testing.T, b programs, values map[string]string) func(file string) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(slices.Sorted(maps.Values(values)))
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "values.json")
	write(t, list, string(text))
	return func(file string) *exec.Cmd {
		cmd := exec.Command(b.brevet, "mask", "--values", list)
		in, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close() })
		cmd.Stdin = in
		return cmd
	}
}
