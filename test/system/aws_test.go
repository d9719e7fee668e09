package system

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssts "github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/test/servers"
	"github.com/brevet-dev/brevet/test/sts"
)

const role = "arn:aws:iam::111122223333:role/deploy"

// startAWS runs a broker that may assume role at an STS endpoint. The role
// trusts the broker as an OIDC provider; the endpoint verifies the broker's
// token through its discovery document.
func startAWS(t *testing.T) (*fixture, *sts.Server) {
	t.Helper()
	// The endpoint must know the broker's url, and the broker the endpoint's.
	brokerURL := "http://" + servers.FreeAddr(t)
	server, err := sts.Start(sts.Config{
		Providers: []sts.Provider{{Issuer: brokerURL, Audiences: []string{"sts.amazonaws.com"}}},
		Roles: []sts.Role{{
			ARN: role, TagSession: true,
			Web: []sts.WebTrust{{Issuer: brokerURL, Audience: "sts.amazonaws.com", Subject: "credential:aws"}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	f := start(t, options{
		url: brokerURL,
		credentials: fmt.Sprintf("  - {name: aws, kind: aws-role, role_arn: %q, region: eu-west-1, endpoint: %q, session_tags: {repository: \"{project_id}\"}}\n"+
			"  - {name: forbidden, kind: aws-role, role_arn: %q, region: eu-west-1, endpoint: %q}\n", role, server.URL, role, server.URL),
		grants: "  - {credential: aws, ttl: 15m, max_ttl: 1h}\n  - {credential: forbidden, ttl: 15m}\n",
	})
	return f, server
}

func TestAWSRole(t *testing.T) {
	t.Parallel()
	f, server := startAWS(t)
	lease := f.exchange(f.form(f.token(nil), "aws")).Leases[0]
	if lease.Revocable || !lease.Renewable || lease.Kind != "aws-role" {
		t.Errorf("revocable %v, renewable %v, kind %s", lease.Revocable, lease.Renewable, lease.Kind)
	}
	issued := server.Issued()
	if len(issued) != 1 || issued[0].SessionName != lease.LeaseID {
		t.Fatalf("STS issued %+v; want one session, named after its lease %s", issued, lease.LeaseID)
	}
	if issued[0].Expires.After(lease.ExpiresAt) {
		t.Errorf("the credential ends at %s, its lease at %s", issued[0].Expires, lease.ExpiresAt)
	}
	// What the job gets works with the SDK.
	v := func(name string) string { return lease.Values[lease.Env[name]].Reveal() }
	client := awssts.New(awssts.Options{
		Region: v("AWS_REGION"), BaseEndpoint: aws.String(server.URL),
		Credentials: credentials.NewStaticCredentialsProvider(v("AWS_ACCESS_KEY_ID"), v("AWS_SECRET_ACCESS_KEY"), v("AWS_SESSION_TOKEN")),
	})
	who, err := client.GetCallerIdentity(t.Context(), &awssts.GetCallerIdentityInput{})
	if err != nil || !strings.Contains(*who.Arn, "assumed-role/deploy/"+lease.LeaseID) {
		t.Errorf("GetCallerIdentity = %v, %v", who, err)
	}
}

func TestAWSRefusesAndFails(t *testing.T) {
	t.Parallel()
	f, server := startAWS(t)
	a := f.post(api.PathToken, f.form(f.token(nil), "forbidden")) // the role's trust policy names another subject
	if e := a.oauth(t); a.status != http.StatusInternalServerError || e.Code != "server_error" || e.RequestID == "" {
		t.Errorf("a role that does not trust the credential = %d %s", a.status, a.body)
	}
	a = f.post(api.PathToken, f.form(f.token(nil), "aws", "forbidden"))
	if a.status != http.StatusInternalServerError {
		t.Errorf("one of two refused = %d %s", a.status, a.body)
	}
	server.Inject(sts.Down, -1)
	a = f.post(api.PathToken, f.form(f.token(nil), "aws"))
	if e := a.oauth(t); a.status != http.StatusServiceUnavailable || e.Code != "temporarily_unavailable" || a.header.Get("Retry-After") == "" {
		t.Errorf("STS down = %d %s", a.status, a.body)
	}
	for _, line := range f.auditLines() {
		if line["event"] == "exchange" && (line["outcome"] != "failed" || line["cause"] == "") {
			t.Errorf("outcome without its cause: %v", line)
		}
	}
	if shown := f.log.String() + fmt.Sprint(f.auditLines()); strings.Contains(shown, "eyJ") {
		t.Error("a token is in the log or the audit log")
	}
}
