package awsidentity_test

import (
	"context"
	"log"

	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/brevet-dev/brevet/plugins/function"
	"github.com/brevet-dev/brevet/plugins/function/awscreds"
	"github.com/brevet-dev/brevet/plugins/function/awsidentity"
)

// A function of AWS Lambda, before it starts its handler.
func Example() {
	ctx := context.Background()
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		log.Fatal(err)
	}
	credentials, err := function.Options{AWS: awsidentity.New(cfg)}.New(ctx, "https://broker.example.com", "deploy")
	if err != nil {
		log.Fatal(err)
	}
	cfg.Credentials = awscreds.New(credentials, "deploy") // for all clients made from cfg
}
