// The controller of JobSets as the tests run it: the project's own reconciler and webhooks.
//
// JobSet's own program has its certificates made in the cluster and mounted by a kubelet, which
// the tests do not have: here they are files.
package main

import (
	"context"
	"flag"
	"log"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	jobset "sigs.k8s.io/jobset/api/jobset/v1alpha2"
	"sigs.k8s.io/jobset/pkg/controllers"
	"sigs.k8s.io/jobset/pkg/webhooks"
)

func main() {
	host := flag.String("webhook-host", "127.0.0.1", "address on which the webhooks are served")
	port := flag.Int("webhook-port", 0, "port of the webhooks")
	certificates := flag.String("certificates", "", "folder of tls.crt and tls.key")
	flag.Parse()
	ctrl.SetLogger(zap.New())
	ctx := ctrl.SetupSignalHandler()
	if err := serve(ctx, *host, *port, *certificates); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, host string, port int, certificates string) error {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, jobset.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	manager, err := ctrl.NewManager(ctrl.GetConfigOrDie(), ctrl.Options{
		Scheme:        scheme,
		Metrics:       metricsserver.Options{BindAddress: "0"},
		WebhookServer: webhook.NewServer(webhook.Options{Host: host, Port: port, CertDir: certificates}),
	})
	if err != nil {
		return err
	}
	if err := controllers.SetupJobSetIndexes(ctx, manager.GetFieldIndexer()); err != nil {
		return err
	}
	events := manager.GetEventRecorderFor("jobset")
	reconciler := controllers.NewJobSetReconciler(manager.GetClient(), scheme, events)
	if err := reconciler.SetupWithManager(manager); err != nil {
		return err
	}
	hook, err := webhooks.NewJobSetWebhook(manager.GetClient())
	if err != nil {
		return err
	}
	if err := hook.SetupWebhookWithManager(manager); err != nil {
		return err
	}
	return manager.Start(ctx)
}
