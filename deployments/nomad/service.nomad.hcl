# nomad job run -var image=REGISTRY/NAME:VERSION deployments/nomad/service.nomad.hcl
#
# The token lies in Nomad's variable: nomad var put nomad/jobs/minivess token=...
variable "image" {
  type        = string
  description = "what docker/build service made, in a registry"
}

job "minivess" {
  group "service" {
    network {
      port "http" { to = 3000 }
    }

    service {
      name     = "minivess"
      port     = "http"
      provider = "nomad"

      check {
        type     = "http"
        path     = "/readyz"
        interval = "30s"
        timeout  = "10s"
      }
    }

    task "service" {
      driver = "docker"

      config {
        image           = var.image
        ports           = ["http"]
        readonly_rootfs = true
        mount {
          type   = "tmpfs"
          target = "/tmp"
        }
      }

      template {
        data        = "MINIVESS_TOKEN={{ with nomadVar \"nomad/jobs/minivess\" }}{{ .token }}{{ end }}"
        destination = "secrets/token.env"
        env         = true
      }

      resources {
        cpu    = 4000
        memory = 8192
      }
    }
  }
}
