package function

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"

	"github.com/brevet-dev/brevet/broker/api"
	"github.com/brevet-dev/brevet/plugins/exchange"
)

// AWSHint is what to do where AWS gives no token. It is package awsidentity's, and
// that of those who have not imported it.
const AWSHint = "allow the function's role sts:GetWebIdentityToken, and have the account enable it: aws iam enable-outbound-web-identity-federation"

// The same of the others: the permission that is missing.
const (
	googleHint = "run the service as a service account of its own: --service-account; on virtual machines and GKE set GCE_METADATA_HOST=metadata.google.internal"
	azureHint  = "assign a managed identity (AZURE_CLIENT_ID says which, if there are several), register an application for the broker, " +
		"and give its id as Options.Audience or BREVET_AUDIENCE; on virtual machines set Options.Platform to azure"
	vercelHint = "switch on OIDC federation in the project's settings, and give Get a context of function.WithRequest"
	flyHint    = "run it on a machine of Fly.io, which serves /.fly/api"
)

// The variables of Google's and Azure's servers.
const (
	metadataHost     = "GCE_METADATA_HOST"                 // as Google's own libraries read it: host[:port]
	identityEndpoint = "IDENTITY_ENDPOINT"                 // App Service, Functions, Container Apps
	identityHeader   = "IDENTITY_HEADER"                   // what shows that a request is of the app
	imdsHost         = "AZURE_POD_IDENTITY_AUTHORITY_HOST" // as Azure's own libraries read it: a URL
)

// google asks the metadata server, which keeps tokens: the same may come again
// until it is about to expire, and it has no jti.
//
// Source: https://cloud.google.com/run/docs/securing/service-identity and
// https://cloud.google.com/compute/docs/instances/verifying-instance-identity
type google struct {
	client *http.Client
	url    *url.URL
}

func newGoogle(getenv func(string) string) (Source, error) {
	host := getenv(metadataHost)
	if host == "" {
		host = "metadata.google.internal"
	}
	u, err := localURL(metadataHost, "http://"+host, "metadata.google.internal", "metadata")
	if err != nil {
		return nil, err
	}
	u.Path = "/computeMetadata/v1/instance/service-accounts/default/identity"
	return google{platformClient(""), u}, nil
}

func (g google) Token(ctx context.Context, audience string) (Secret, error) {
	const who, flavor = "Google's metadata server", "Metadata-Flavor"
	reply, err := ask(ctx, g.client, who, googleHint, get(g.url, url.Values{"audience": {audience}, "format": {"full"}}, flavor, "Google"))
	if err != nil {
		return Secret{}, err
	}
	if reply.Header.Get(flavor) != "Google" {
		return Secret{}, exchange.Failf(exchange.Protocol, "", "what answered is not %s", who)
	}
	return api.NewSecret(string(reply.Body)), nil
}

// azure asks the identity endpoint of App Service and its kin, or the metadata
// service of virtual machines. Both keep tokens, for hours.
//
// Source: https://learn.microsoft.com/en-us/azure/app-service/overview-managed-identity
// and https://learn.microsoft.com/en-us/entra/identity/managed-identities-azure-resources/how-to-use-vm-token
type azure struct {
	client *http.Client
	url    *url.URL
	query  url.Values
	header string // what shows that a request is no accident, and its value
	value  api.Secret
}

// newAzure needs an audience: the broker's URL is none that Azure knows.
func newAzure(getenv func(string) string, audience string) (Source, error) {
	if audience == "" {
		return nil, exchange.Failf(exchange.Misconfigured, azureHint, "Azure gives tokens for applications only, and neither Options.Audience nor BREVET_AUDIENCE names one")
	}
	a := azure{client: platformClient(""), query: url.Values{}}
	if id := getenv("AZURE_CLIENT_ID"); id != "" {
		a.query.Set("client_id", id)
	}
	endpoint, secret := getenv(identityEndpoint), getenv(identityHeader)
	var err error
	switch {
	case getenv("IDENTITY_SERVER_THUMBPRINT") != "", endpoint != "" && getenv("IMDS_ENDPOINT") != "": // Service Fabric; Arc
		return nil, exchange.Failf(exchange.Misconfigured, "write its token to a file and set Options.Platform to file", "the managed identities of Service Fabric and Azure Arc are not supported")
	case endpoint != "" && secret != "":
		a.url, err = localURL(identityEndpoint, endpoint)
		a.header, a.value = "X-IDENTITY-HEADER", api.NewSecret(secret)
		a.query.Set("api-version", "2019-08-01")
	case getenv("WEBSITE_INSTANCE_ID") != "", getenv("CONTAINER_APP_NAME") != "", endpoint != "":
		return nil, exchange.Failf(exchange.Misconfigured, azureHint, "this app has no managed identity: IDENTITY_ENDPOINT and IDENTITY_HEADER are not both set")
	default:
		host := getenv(imdsHost)
		if host == "" {
			host = "http://169.254.169.254"
		}
		if a.url, err = localURL(imdsHost, host); err == nil {
			a.url = a.url.JoinPath("/metadata/identity/oauth2/token")
		}
		a.header, a.value = "Metadata", api.NewSecret("true")
		a.query.Set("api-version", "2018-02-01")
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (a azure) Token(ctx context.Context, audience string) (Secret, error) {
	query := url.Values{"resource": {audience}}
	for name, values := range a.query {
		query[name] = values
	}
	reply, err := ask(ctx, a.client, "Azure's identity endpoint", azureHint, get(a.url, query, a.header, a.value.Reveal()))
	if err != nil {
		return Secret{}, err
	}
	var in struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(reply.Body, &in); err != nil || in.AccessToken == "" {
		return Secret{}, exchange.Failf(exchange.Protocol, "", "Azure's identity endpoint answered without a token")
	}
	return api.NewSecret(in.AccessToken), nil
}

// fly asks the machine's own API, over a socket.
//
// Source: https://fly.io/docs/security/openid-connect/
type fly struct {
	client *http.Client
	socket string
}

func (f fly) Token(ctx context.Context, audience string) (Secret, error) {
	if _, err := os.Stat(f.socket); err != nil {
		return Secret{}, exchange.Failf(exchange.Misconfigured, flyHint, "looking for Fly.io's machine API: %w", err)
	}
	body, err := json.Marshal(map[string]string{"aud": audience})
	if err != nil {
		return Secret{}, exchange.Failf(exchange.Misconfigured, "", "encoding the audience: %w", err)
	}
	reply, err := ask(ctx, f.client, "Fly.io's machine API", flyHint, postJSON("http://localhost/v1/tokens/oidc", body))
	if err != nil {
		return Secret{}, err
	}
	return api.NewSecret(string(reply.Body)), nil
}
