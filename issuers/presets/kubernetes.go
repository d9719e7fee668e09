package presets

import "time"

// kubernetes describes projected service account tokens. The tokens of secrets
// have another issuer and no end, and those for the API server may live for a
// year: both are refused. Names of namespaces and service accounts can be taken
// again by whoever may create them.
//
// Source: https://github.com/kubernetes/kubernetes/blob/master/pkg/serviceaccount/claims.go
func kubernetes() *Preset {
	const top = "kubernetes.io"
	return &Preset{
		Name:  "kubernetes",
		Title: "Kubernetes service accounts",
		Docs:  "https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/",
		URLs: []string{
			"https://{host}", "https://{host}/{path...}", // EKS, GKE, AKS and one's own
		},
		DefaultAudiences: []string{
			"{url}", "https://kubernetes.default.svc", "https://kubernetes.default.svc.cluster.local", "https://kubernetes.default",
		},
		Subjects:    []string{"system:serviceaccount:{namespace}:{service_account}"},
		Algorithms:  []string{"RS256", "ES256"},
		Types:       []string{"", "JWT"},
		MaxAge:      24 * time.Hour, // the kubelet renews them at 80 % of their life, or after a day
		MaxLifetime: 24 * time.Hour,
		Replay:      Bind, // one file for the whole pod
		Owner:       "namespace",
		ProjectID:   "service_account_uid",
		Project:     "service_account",
		Job:         "pod_uid",
		Pins: []Pin{
			{"the service account, by its uid", []Gate{{{Claim: "service_account_uid"}}}},
		},
		Claims: claims(map[string]*Claim{
			"namespace":           must(String, Mutable, "the namespace").at(top, "namespace"),
			"service_account":     must(String, Mutable, "name of the service account").at(top, "serviceaccount", "name"),
			"service_account_uid": must(String, Immutable, "the service account").at(top, "serviceaccount", "uid"),
			"pod":                 maybe(String, Mutable, "name of the pod, if the token is bound to one").at(top, "pod", "name"),
			"pod_uid":             maybe(String, Immutable, "the pod, likewise").at(top, "pod", "uid"),
			"node":                maybe(String, Mutable, "name of the pod's node (newer versions)").at(top, "node", "name"),
			"node_uid":            maybe(String, Immutable, "the node (newer versions)").at(top, "node", "uid"),
			"warnafter":           maybe(Int, Platform, "when a token with an extended life should have been renewed, in Unix time").at(top, "warnafter"),
			"sub":                 must(String, Mutable, "system:serviceaccount:NAMESPACE:NAME"),
		}),
	}
}

func kubernetesGuide() Guide {
	return Guide{
		Job:    "A projected volume, `serviceAccountToken: {audience: https://broker.example.com, expirationSeconds: 3600, path: brevet}`, puts it into a file of the pod.",
		Config: `- {name: kubernetes, preset: kubernetes, url: "https://oidc.eks.eu-west-1.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF"}`,
		Blind: []string{
			"What runs in the pod: the token is of the service account, so give each job one of its own. Whoever may create pods or tokens in the namespace has it.",
			"Clusters that all call themselves `https://kubernetes.default.svc`: a token does not say of which it is. One of them can be configured, with its keys in " +
				"`jwks_file`; for a second one give each an issuer of its own (`--service-account-issuer`).",
			"A pod that is gone: its token works until its end.",
			"A service account that was made anew has a new uid, and policies need it.",
		},
	}
}
