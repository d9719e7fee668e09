// Command lambda-go is a function of AWS Lambda that puts orders into a queue. It
// gets its token for the queue from a broker while an instance starts; nothing that
// is secret is stored with it.
//
// # At AWS
//
// Once for the account, and for the function a role that may ask for tokens:
//
//	aws iam enable-outbound-web-identity-federation
//	aws iam put-role-policy --role-name orders --policy-name brevet --policy-document '{"Version": "2012-10-17",
//	  "Statement": [{"Effect": "Allow", "Action": "sts:GetWebIdentityToken", "Resource": "*",
//	    "Condition": {"ForAllValues:StringEquals": {"sts:IdentityTokenAudience": "https://broker.example.com"},
//	      "NumericLessThanEquals": {"sts:DurationSeconds": 300}}}]}'
//
// # At the broker
//
// The first command prints the issuer's URL for brevetd.yaml. A policy names the role,
// and the function, since others could have the same role:
//
//	issuers:
//	  - {name: aws, preset: aws, url: "https://0123abcd-4567-89ef-0123-456789abcdef.tokens.sts.global.api.aws"}
//
//	policy: orders
//	issuer: aws
//	match:
//	  aws_account: "111122223333"
//	  sub: arn:aws:iam::111122223333:role/orders
//	  lambda_source_function_arn: arn:aws:lambda:eu-west-1:111122223333:function:orders
//	grant:
//	  - {credential: queue, ttl: 10m}
//
// # The function
//
//	GOARCH=arm64 GOOS=linux CGO_ENABLED=0 go build -trimpath -tags lambda.norpc -ldflags '-s -w' -o bootstrap ./examples/functions/lambda-go
//	zip orders.zip bootstrap
//	aws lambda create-function --function-name orders --runtime provided.al2023 --architectures arm64 --handler bootstrap \
//	  --timeout 10 --role arn:aws:iam::111122223333:role/orders --zip-file fileb://orders.zip \
//	  --environment 'Variables={BROKER_URL=https://broker.example.com,QUEUE_URL=https://queue.example.com/orders}'
//
// The timeout is longer than what the start takes at the most: one that did not succeed
// is tried again within the first invocation. A function that must start even when the
// broker cannot be reached has START_WITHOUT set to yes: then its first order has to
// wait for the broker, or fails.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/brevet-dev/brevet/plugins/function"
	"github.com/brevet-dev/brevet/plugins/function/awsidentity"
)

const (
	// startTime is how long the start may take: of one that takes more than ten seconds
	// nobody would know why.
	startTime = 5 * time.Second

	// waitTime is how long an order waits for a token if there is none in force. It is
	// shorter than the function's timeout, which would end the whole instance.
	waitTime = 3 * time.Second
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		log.Fatal(err)
	}
	options := function.Options{AWS: awsidentity.New(cfg), StartWithout: os.Getenv("START_WITHOUT") == "yes"}
	credentials, err := options.New(ctx, os.Getenv("BROKER_URL"), "queue")
	if err != nil {
		log.Fatal(err) // says what is missing, and holds no secret
	}
	q := queue{os.Getenv("QUEUE_URL"), credentials}
	lambda.StartWithOptions(q.put, lambda.WithEnableSIGTERM(func() { os.Exit(giveBack(credentials)) }))
}

// A queue takes orders.
type queue struct {
	url         string
	credentials *function.Set
}

// put is the handler: it puts one order into the queue, and returns what that says.
func (q queue) put(ctx context.Context, order json.RawMessage) (string, error) {
	waiting, cancel := context.WithTimeout(ctx, waitTime)
	defer cancel()
	credential, err := q.credentials.Get(waiting, "queue") // from memory
	if err != nil {
		return "", err
	}
	token, err := credential.Value("token")
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, q.url, bytes.NewReader(order))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("asking the queue: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the queue answered %s", resp.Status)
	}
	receipt, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return string(receipt), err
}

// giveBack ends what the instance has, and returns its exit status. Lambda kills the
// process 500 ms after SIGTERM; what was not given back by then ends by its time.
func giveBack(credentials *function.Set) int {
	if err := credentials.Close(context.Background()); err != nil {
		log.Print(err)
		return 1
	}
	return 0
}
