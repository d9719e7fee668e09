package presets

import "time"

// aws describes the tokens of AWS's outbound identity federation, which have an
// issuer for each account. AWS does not accept them itself.
//
// Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_outbound_token_claims.html
func aws() *Preset {
	const top = "https://sts.amazonaws.com/"
	return &Preset{
		Name:        "aws",
		Title:       "AWS outbound identity federation",
		Docs:        "https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_outbound.html",
		URLs:        []string{"https://{id}.tokens.sts.global.api.aws"},
		Subjects:    []string{"arn:{partition}:iam::{aws_account}:role/{role...}"},
		Algorithms:  []string{"RS256", "ES384"},
		Types:       []string{"JWT", ""},
		MaxAge:      10 * time.Minute, // minted on demand
		MaxLifetime: time.Hour,        // the most that a job can ask for
		Replay:      Once,
		RequireJTI:  true,
		// The caller of GetWebIdentityToken chooses them, and same names in
		// principal_tags were used to pass for the platform's.
		Never:   [][]string{{top, "request_tags"}},
		OwnerID: "aws_account",
		Project: "sub",
		Actor:   "source_identity",
		Pins: []Pin{
			{"the account, by its number", []Gate{{{Claim: "aws_account"}}}},
			{"one exact role", []Gate{{{Claim: "sub", Exact: true}}}},
		},
		Claims: claims(map[string]*Claim{
			"sub":                        must(String, Mutable, "ARN of the role; the account can make another of that name"),
			"aws_account":                must(String, Immutable, "the account: twelve digits").at(top, "aws_account"),
			"org_id":                     maybe(String, Immutable, "the organization").at(top, "org_id"),
			"principal_id":               maybe(String, Mutable, "ARN of the principal").at(top, "principal_id"),
			"source_region":              maybe(String, Platform, "region that the token was asked for in").at(top, "source_region"),
			"original_session_exp":       maybe(String, Platform, "when the role's session ends, as RFC 3339").at(top, "original_session_exp"),
			"source_identity":            maybe(String, Attacker, "what the session was given as its source identity").at(top, "source_identity"),
			"lambda_source_function_arn": maybe(String, Mutable, "the Lambda function").at(top, "lambda_source_function_arn"),
			"ec2_source_instance_arn":    maybe(String, Immutable, "the virtual machine").at(top, "ec2_source_instance_arn"),
			"identity_store_user_id":     maybe(String, Immutable, "the person in Identity Center").at(top, "identity_store_user_id"),
			"identity_store_arn":         maybe(String, Immutable, "the Identity Center's store").at(top, "identity_store_arn"),
		}),
	}
}

func awsGuide() Guide {
	return Guide{
		Job:    "`aws sts get-web-identity-token --audience https://broker.example.com --signing-algorithm RS256 --duration-seconds 300`. The account must have it enabled.",
		Config: `- {name: aws, preset: aws, url: "https://0123abcd-4567-89ef-0123-456789abcdef.tokens.sts.global.api.aws"}`,
		Blind: []string{
			"Functions and tasks that share a role, but by `lambda_source_function_arn` or `ec2_source_instance_arn`; give each job a role of its own.",
			"`request_tags` are what the job says of itself: no policy can use them, and no configuration can declare them.",
			"Tags of the role become usable one by one: `claims: {team: {type: string, kind: platform, path: [\"https://sts.amazonaws.com/\", principal_tags, team]}}`. " +
				"So does `ou_path`, with the type that your tokens have: AWS shows a text, and others saw lists.",
		},
	}
}
