// Terraform acts as the program of that name does in a long job, as far as
// credentials go: it finds them by the default chain of the AWS SDK, asks that
// for them before each of very many requests, and fails when one has ended.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
)

// wanted is how many credentials, one after the other, the job must live through.
const wanted = 4

// patience bounds the job; each credential lives for two seconds.
const patience = 30 * time.Second

func main() {
	if err := apply(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "terraform:", err)
		os.Exit(1)
	}
}

func apply(ctx context.Context, args []string) error {
	if got := strings.Join(args, " "); got != "apply -input=false -auto-approve" {
		return fmt.Errorf("called with %q", got)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion("eu-west-1"))
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for len(seen) < wanted {
		got, err := cfg.Credentials.Retrieve(ctx)
		if err != nil {
			return err
		}
		if !got.CanExpire {
			return fmt.Errorf("the credential of %s has no end", got.Source)
		}
		seen[got.SessionToken] = true
		select {
		case <-time.After(20 * time.Millisecond): // a request
		case <-ctx.Done():
			return fmt.Errorf("waiting for credential %d: %w", len(seen)+1, ctx.Err())
		}
	}
	fmt.Printf("applied, with %d credentials\n", len(seen))
	return nil
}
