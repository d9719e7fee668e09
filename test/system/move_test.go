package system

import (
	"net/http"
	"strings"
	"testing"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/test/servers"
)

// A broker with a software root moves to a TPM by other lines in its
// configuration. Sessions and data keys come along, and the old root can go.
func TestMoveToTPM(t *testing.T) {
	t.Parallel()
	f := start(t, options{})
	earlier, old := f.job(release, "files"), *f
	f.write("old.yaml", string(f.read("brevetd.yaml")))
	f.configure(placeIn(servers.BareSWTPM(t)).config, "")
	f.wantRefusal("opening the root", "serve")
	f.initialize()
	f.join(&old, "-c", "old.yaml") // the old broker still serves
	f.followsRing(2)
	f.stop()
	f.serve()
	check(t, f, []*job{earlier})
	if kind, err := f.ask("/metrics"); err != nil || !strings.Contains(kind, `brevet_root_info{kind="tpm"} 1`) {
		t.Errorf("the root is not in the TPM: %v", err)
	}
	f.write("roots.pem", f.brevetd("keys", "export-trust", "--pem"))
	f.verifiesTrust(f.brevetd("keys", "export-trust"), "--root", old.fingerprint) // who knew the old root need not be told

	f.brevetd("keys", "remove", old.fingerprint)
	f.followsRing(3)
	if a := f.post(api.PathToken, f.form(f.token(nil), "deploy")); a.status != http.StatusOK {
		t.Errorf("exchange without the old root = %d %s", a.status, a.body)
	}
	if got := f.job("{}", "files").unwrap(f, earlier.value(api.ValueWrapped), release); got != earlier.value(api.ValuePlaintext) {
		t.Error("another key came along")
	}
	f.distrusts(f.brevetd("keys", "export-trust"), "--root", old.fingerprint)
	f.verifiesTrust(f.brevetd("keys", "export-trust"), "--root", f.fingerprint)
	f.stop()
	f.wantRefusal("this broker is not in the fleet's ring of keys any more", "serve", "-c", "old.yaml")
	// One log, of both roots.
	if out := f.brevetd("audit", "verify", "--root", "roots.pem", "--url", f.url, "audit.jsonl"); !strings.HasPrefix(out, "ok: ") {
		t.Errorf("audit verify: %s", out)
	}
}
