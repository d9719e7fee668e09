package clients

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/brevet-dev/brevet/plugins/runner/runnertest"
	"github.com/brevet-dev/brevet/test/agent/job"
)

// shop reads the example's manifest, strictly.
func shop(t *testing.T) appsv1.Deployment {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "examples/functions/kubernetes/shop.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	account, deployment, _ := strings.Cut(string(text), "\n---\n")
	var a corev1.ServiceAccount
	var d appsv1.Deployment
	if err := errors.Join(yaml.UnmarshalStrict([]byte(account), &a), yaml.UnmarshalStrict([]byte(deployment), &d)); err != nil {
		t.Fatal(err)
	}
	if spec := d.Spec.Template.Spec; spec.ServiceAccountName != a.Name || d.Namespace != a.Namespace || a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken {
		t.Errorf("the pods have account %s, which is not %s, or one for the API server", spec.ServiceAccountName, a.Name)
	}
	return d
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := job.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// images builds the programs of the manifest's images.
func images(t *testing.T) string {
	t.Helper()
	bin, err := os.MkdirTemp("", "images-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(bin) })
	brevet, err := exec.LookPath("brevet") // see TestMain
	if err == nil {
		err = errors.Join(os.Chmod(bin, 0o755), os.Chmod(filepath.Dir(brevet), 0o755), os.Symlink(brevet, filepath.Join(bin, "brevet")))
	}
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "shop"), "./examples/functions/kubernetes/app")
	build.Dir, build.Env = root(t), append(os.Environ(), "CGO_ENABLED=0", "HOME="+os.Getenv("HOME"))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// free returns an address of this machine on which nobody listens.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A shopPod is a pod of the example, with its broker.
type shopPod struct {
	*pod
	broker       *runnertest.Broker
	app, aws     string // addresses
	databaseURL  string // path
	sidecar      corev1.Container
	awsTokenFile string // path
}

func startShop(t *testing.T) *shopPod {
	t.Helper()
	database := runnertest.Lease("database", "DATABASE_URL", "postgres://brevet_1:"+runnertest.Canary+"@db.example.com/shop")
	database.Kind = "postgres"
	s := &shopPod{broker: runnertest.NewBroker(database, job.CloudLease()), app: free(t), aws: free(t)}
	t.Cleanup(s.broker.Close)
	spec := shop(t).Spec.Template.Spec
	s.pod = newPod(t, spec, images(t), map[string]string{
		"https://broker.example.com": s.broker.URL, "127.0.0.1:2774": s.aws, "0.0.0.0:8080": s.app,
	})
	s.sidecar = spec.InitContainers[0]
	s.databaseURL, s.awsTokenFile = s.here(s.sidecar, "/credentials/database-url"), s.here(s.sidecar, "/credentials/aws-token")
	s.project(runnertest.Token("pod"))
	return s
}

// works waits until the app has its database, and AWS's SDK would get its
// credentials.
func (s *shopPod) works() {
	s.t.Helper()
	s.eventually("the app", func() error {
		return s.get("http://"+s.app, "", "connecting to db.example.com as brevet_1\n")
	})
	s.eventually("the endpoint for AWS", func() error {
		token, err := os.ReadFile(s.awsTokenFile)
		if err != nil {
			return err
		}
		return s.get("http://"+s.aws+"/aws/cloud", string(token), `"AccessKeyId":"access_key_id-`)
	})
	s.eventually("the readiness probe", func() error {
		_, err := s.probe(s.sidecar, s.sidecar.ReadinessProbe)
		return err
	})
}

func (s *shopPod) get(url, token, want string) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && !strings.Contains(string(body), want) {
		err = fmt.Errorf("%s answered %d without %q", url, resp.StatusCode, want)
	}
	return err
}

// TestSidecar lives through the life of a pod of the example: it starts, its
// credentials are renewed and then exchanged for again with the token that the
// kubelet has put in the place of the first, the sidecar crashes, and the pod ends.
func TestSidecar(t *testing.T) {
	s := startShop(t)
	s.broker.SetTerms("database", runnertest.Terms{TTL: 2 * time.Second, Times: 1})
	s.run()
	s.works()
	s.project(runnertest.Token("pod, rotated"))
	s.eventually("another database user", func() error {
		text, err := os.ReadFile(s.databaseURL)
		var n int
		if _, number, _ := strings.Cut(string(text), "/shop-"); err == nil {
			n, err = strconv.Atoi(number)
		}
		if err == nil && n < 3 { // the second is a renewal's
			err = errors.New("it is of the first exchange")
		}
		return err
	})
	s.works()

	sessions, killed, _ := s.broker.Counts()
	if sessions < 3 {
		t.Errorf("%d exchanges, want one for each credential, and one when the first could not be renewed", sessions)
	}
	s.crash(s.sidecar.Name)
	s.works()
	if err := s.end(); err != nil {
		t.Errorf("the sidecar ended with %v", err)
	}
	if _, live, _ := s.broker.Counts(); live > killed {
		t.Errorf("%d sessions live after the end of the pod, %d of them those of the sidecar that was killed", live, killed)
	}
	for _, v := range s.spec.Volumes {
		s.isEmptied(v)
	}
	if log := s.log.String(); strings.Contains(log, runnertest.Canary) {
		t.Errorf("a secret is in the pod's log:\n%s", log)
	}
}

// isEmptied fails the test unless nothing is left in a volume but what a sidecar
// that starts again needs: its key, and the folder that another's socket was in.
func (s *shopPod) isEmptied(v corev1.Volume) {
	s.t.Helper()
	files, err := os.ReadDir(s.volumes[v.Name])
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range files {
		if v.Projected == nil && !(v.Name == "state" && (f.Name() == "key" || f.IsDir())) {
			s.t.Errorf("volume %s has %s at the end", v.Name, f.Name())
		}
	}
}

// TestSidecarWithoutKey has another pod come with the same token, which was stolen,
// and a sidecar whose key is gone.
func TestSidecarWithoutKey(t *testing.T) {
	s := startShop(t)
	s.run()
	if err := os.Remove(s.here(s.sidecar, "/state/key")); err != nil {
		t.Fatal(err)
	}
	again := s.command(s.sidecar, append(s.sidecar.Command, "--credential=database", "--once", "--file=DATABASE_URL="+s.databaseURL, "--key-file="+s.here(s.sidecar, "/state/key")))
	again.Stdout, again.Stderr = nil, nil
	out, err := again.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "subject token already used") || !strings.Contains(string(out), "BREVET_KEY_FILE") {
		t.Errorf("with another key: %v\n%s", err, out)
	}
	s.works()
}
