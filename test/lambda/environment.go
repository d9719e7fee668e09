package lambda

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// environment is the variables of the processes.
type environment struct{ runtime, extensions []string }

// settable is the form of a variable that a function may have, and maxEnvironment
// the size of all.
//
// https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
var settable = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]+$`)

const maxEnvironment = 4 << 10

// withheld are the variables that extensions do not get: those of the runtime. Nor
// do they get others that begin with _.
//
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html, under
// Permissions and configuration
var withheld = []string{
	"AWS_EXECUTION_ENV", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_XRAY_CONTEXT_MISSING", "AWS_XRAY_DAEMON_ADDRESS",
	"LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT",
}

// newEnvironment returns the variables of f whose APIs are at api. Nothing of this
// process's own environment is among them.
func newEnvironment(f Function, api, tmp string) (environment, error) {
	all, reserved := unreserved(), f.reserved(api, tmp)
	size := 0
	for name, value := range f.Environment {
		if size += len(name) + len(value); size > maxEnvironment {
			return environment{}, fmt.Errorf("the function's variables have more than %d bytes", maxEnvironment)
		}
		if _, taken := reserved[name]; taken || !settable.MatchString(name) {
			return environment{}, fmt.Errorf("the variable %q is Lambda's, or has a name that Lambda does not take", name)
		}
	}
	maps.Copy(all, f.Environment)
	maps.Copy(all, reserved)
	e := environment{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		pair := name + "=" + all[name]
		e.runtime = append(e.runtime, pair)
		if !strings.HasPrefix(name, "_") && !slices.Contains(withheld, name) {
			e.extensions = append(e.extensions, pair)
		}
	}
	return e, nil
}

// unreserved are variables that a function may set to something else.
func unreserved() map[string]string {
	return map[string]string{
		"LANG": "en_US.UTF-8", "PATH": "/usr/local/bin:/usr/bin/:/bin:/opt/bin",
		"AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR", "AWS_XRAY_DAEMON_ADDRESS": "169.254.79.129:2000",
	}
}

// reserved are the variables that Lambda sets. A runtime of the function's own has
// no AWS_EXECUTION_ENV. TMPDIR is ours.
func (f Function) reserved(api, tmp string) map[string]string {
	return map[string]string{
		"_HANDLER": f.Handler, "TZ": ":UTC", "TMPDIR": tmp,
		"AWS_REGION": f.Region, "AWS_DEFAULT_REGION": f.Region,
		"AWS_LAMBDA_FUNCTION_NAME": f.Name, "AWS_LAMBDA_FUNCTION_VERSION": f.Version, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": memory,
		"AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "AWS_LAMBDA_RUNTIME_API": api,
		"AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/" + f.Name, "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/25/[" + f.Version + "]0123456789abcdef0123456789abcdef",
		"AWS_ACCESS_KEY_ID": f.Role.AccessKeyID, "AWS_SECRET_ACCESS_KEY": f.Role.SecretAccessKey, "AWS_SESSION_TOKEN": f.Role.SessionToken,
		"LAMBDA_TASK_ROOT": f.Root, "LAMBDA_RUNTIME_DIR": "/var/runtime",
	}
}

// memory is the function's, in MB: the least that Lambda gives.
const memory = "128"
