// The controller of PyTorchJobs as the tests run it: the project's own reconciler and webhook.
//
// Kubeflow's own program has its certificates made in the cluster and mounted by a kubelet, which
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

	kubeflow "github.com/kubeflow/training-operator/pkg/apis/kubeflow.org/v1"
	"github.com/kubeflow/training-operator/pkg/config"
	"github.com/kubeflow/training-operator/pkg/controller.v1/common"
	"github.com/kubeflow/training-operator/pkg/controller.v1/pytorch"
	pytorchwebhook "github.com/kubeflow/training-operator/pkg/webhooks/pytorch"
)

func main() {
	host := flag.String("webhook-host", "127.0.0.1", "address on which the webhooks are served")
	port := flag.Int("webhook-port", 0, "port of the webhooks")
	certificates := flag.String("certificates", "", "folder of tls.crt and tls.key")
	initContainer := flag.String("init-container", config.PyTorchInitContainerTemplateFileDefault,
		"file with the container in which Workers wait for their Master, as the project's own flag")
	flag.Parse()
	config.Config.PyTorchInitContainerTemplateFile = *initContainer
	ctrl.SetLogger(zap.New())
	if err := serve(ctrl.SetupSignalHandler(), *host, *port, *certificates); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, host string, port int, certificates string) error {
	config.Config.PyTorchInitContainerImage = config.PyTorchInitContainerImageDefault
	config.Config.PyTorchInitContainerMaxTries = config.PyTorchInitContainerMaxTriesDefault
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, kubeflow.AddToScheme} {
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
	reconciler := pytorch.NewReconciler(manager, common.GenNonGangSchedulerSetupFunc())
	if err := reconciler.SetupWithManager(manager, 1); err != nil {
		return err
	}
	if err := pytorchwebhook.SetupWebhook(manager); err != nil {
		return err
	}
	return manager.Start(ctx)
}
